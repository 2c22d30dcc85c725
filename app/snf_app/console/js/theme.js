// Applies the stored theme before the first paint, so that the dark theme does not flash white.
{
  const chosen = localStorage.getItem("snf-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
