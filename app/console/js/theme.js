// Runs before the first paint, so that a page that was chosen dark never flashes white.
{
  const chosen = localStorage.getItem("snf-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
