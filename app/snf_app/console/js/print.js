// Printing: collapsed parts are open and the theme is light while the page is printed, charts on canvases included.

const root = document.documentElement;
let before = null;

function show(theme) {
  if (theme === undefined) delete root.dataset.theme;
  else root.dataset.theme = theme;
  document.dispatchEvent(new Event("snf-theme"));
}

window.addEventListener("beforeprint", () => {
  const collapsed = [...document.querySelectorAll("main details:not([open])")];
  for (const details of collapsed) details.open = true;
  before = { collapsed, theme: root.dataset.theme };
  show("light");
});

window.addEventListener("afterprint", () => {
  if (!before) return;
  for (const details of before.collapsed) details.open = false;
  show(before.theme);
  before = null;
});
