// The frame: which page is shown, the theme, and whether the service is well.
import { askForKey, authorization, hasKey } from "./service.js";
import { complain } from "./toast.js";

const PAGES = {
  score: () => import("./pages/score.js"),
  samples: () => import("./pages/samples.js"),
  train: () => import("./pages/train.js"),
  models: () => import("./pages/models.js"),
};
const LOOK_MS = 5000;

const main = document.getElementById("main");
let leave = () => undefined;
let visits = 0;

/** `#/models/digits:2` is the page `models` with the argument `digits:2`. */
function place() {
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return page in PAGES ? [page, rest.join("/")] : ["score", ""];
}

async function show() {
  const [page, argument] = place();
  const visit = (visits += 1);
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    const module = await PAGES[page]();
    if (visit !== visits) return; // another page was asked for meanwhile
    leave();
    // A fresh element: lit-html keeps what it drew into one.
    const root = Object.assign(document.createElement("div"), { className: "page" });
    main.replaceChildren(root);
    document.title = `${module.title} · snf density`;
    leave = module.mount(root, argument) ?? (() => undefined);
    if (visit > 1) main.focus();
    window.scrollTo(0, 0);
  } catch (error) {
    complain(error);
  }
}

async function look() {
  const status = document.getElementById("status");
  let [state, text] = ["down", "not answering"];
  try {
    const response = await fetch("/readyz");
    const found = await response.json();
    if (response.ok) [state, text] = found.jobs === "ok" ? ["ready", "ready"] : ["degraded", "ready, but no jobs"];
    else [state, text] = ["degraded", found.status];
  } catch {
    // What it says already: the service does not answer.
  }
  if (status.dataset.state !== state) [status.dataset.state, status.textContent] = [state, text];
}

/** Shows whose key is in use and its role; a click gives another one. */
async function showHolder() {
  const button = document.getElementById("holder");
  if (!hasKey()) return;
  const response = await fetch("/v1/me", { headers: authorization() }).catch(() => null);
  if (!response?.ok) return; // a key that is refused is asked for again by the page itself
  const { name, role } = await response.json();
  button.textContent = `${name} (${role})`;
  button.setAttribute("aria-label", `Key ${name}, role ${role}: use another`);
  button.hidden = false;
}

document.getElementById("holder").onclick = async () => {
  if (await askForKey("Another key may do more or less than this one.")) show();
};
document.addEventListener("snf-key", showHolder);

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function nameTheme() {
  document.getElementById("theme").textContent = dark() ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", dark() ? "Light theme" : "Dark theme");
  document.dispatchEvent(new Event("snf-theme"));
}

document.getElementById("theme").onclick = () => {
  const theme = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("snf-theme", theme);
  nameTheme();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
window.addEventListener("hashchange", show);
nameTheme();
show();
look();
showHolder();
setInterval(() => document.hidden || look(), LOOK_MS);
