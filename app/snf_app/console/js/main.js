// The page frame: navigation, theme, service status and the API key in use.
import { askForKey, authorization, hasKey } from "./service.js";
import { complain } from "./toast.js";
import "./print.js";

const PAGES = {
  score: () => import("./pages/score.js"),
  samples: () => import("./pages/samples.js"),
  train: () => import("./pages/train.js"),
  runs: () => import("./pages/runs.js"),
  models: () => import("./pages/models.js"),
};
const STATUS_INTERVAL_MS = 5000;
const STATUS_LIMIT_MS = 4000;

const main = document.getElementById("main");
let leave = () => undefined;
let visits = 0;

/** Parses the URL fragment: `#/models/digits:2` is the page `models` with the argument `digits:2`. */
function route() {
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  return page in PAGES ? [page, rest.join("/")] : ["score", ""];
}

/** Decodes a part of an address; what cannot be decoded, such as the end of a link that was cut, stays as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

async function show() {
  const [page, argument] = route();
  const visit = (visits += 1);
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    const module = await PAGES[page]();
    if (visit !== visits) return; // the user has navigated elsewhere in the meantime
    leave();
    // A new element for each page: lit-html stores its state on the element it renders into.
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

async function updateStatus() {
  const status = document.getElementById("status");
  let [state, text] = ["down", "not answering"];
  try {
    // Without a limit, calls to a service that hangs would take all connections of the browser.
    const response = await fetch("/readyz", { signal: AbortSignal.timeout(STATUS_LIMIT_MS) });
    const health = await response.json();
    if (response.ok) [state, text] = health.jobs === "ok" ? ["ready", "ready"] : ["degraded", "ready, jobs down"];
    else [state, text] = ["degraded", health.status];
  } catch {
    // The initial values apply.
  }
  if (status.textContent !== text) [status.dataset.state, status.textContent] = [state, text];
}

/** Shows the name and role of the API key in use. A click on it asks for another key. */
async function showKey() {
  const button = document.getElementById("holder");
  if (!hasKey()) return;
  const response = await fetch("/v1/me", { headers: authorization() }).catch(() => null);
  if (!response?.ok) return; // the page itself asks for a new key if this one is rejected
  const { name, role } = await response.json();
  button.textContent = `${name} (${role})`;
  button.setAttribute("aria-label", `Key ${name}, role ${role}: change key`);
  button.hidden = false;
}

document.getElementById("holder").onclick = async () => {
  if (await askForKey("Enter another key to change your permissions.")) show();
};
document.addEventListener("snf-key", showKey);

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function updateThemeButton() {
  document.getElementById("theme").textContent = isDark() ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
  document.dispatchEvent(new Event("snf-theme"));
}

document.getElementById("theme").onclick = () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("snf-theme", theme);
  updateThemeButton();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", updateThemeButton);
window.addEventListener("hashchange", show);
updateThemeButton();
show();
updateStatus();
showKey();
setInterval(() => document.hidden || updateStatus(), STATUS_INTERVAL_MS);
