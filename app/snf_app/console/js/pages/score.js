// The Score page: log-likelihoods and anomaly verdicts of images.
import { html, nothing, render } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { smallestRate } from "../attainable.js";
import { accepted, brief, count, fixed, whole } from "../format.js";
import { modelChoice, notice, ofFeatures, segments, usableModels, waiting, wantedModel } from "../parts.js";
import { csv } from "../score/csv.js";
import { detail } from "../score/detail.js";
import { kept, options } from "../score/filter.js";
import { dropped, named, pasted, SHOWN, TYPES } from "../score/intake.js";
import { explain, Queue, sameCalibration } from "../score/queue.js";
import { get, save } from "../service.js";
import { complain } from "../toast.js";

export const title = "Score";

const MODEL_KEY = "snf-model"; // in the session storage: the model that another page has selected
const PAGE_SIZE = 100;
const MAX_ALPHA = 0.2;
const COLUMNS = [
  ["name", "image", (item) => item.name, ""],
  ["log_likelihood", "log-likelihood (nats)", (item) => item.result?.log_likelihood, "num"],
  ["bits_per_dim", "bits/dim", (item) => item.result?.bits_per_dim, "num"],
  // Sorted by the statistic: images beyond all calibration images share the smallest p-value.
  ["p_value", "p-value", (item) => item.result && -item.result.anomaly.statistic, "num"],
  ["verdict", "verdict", (item) => item.result && -item.result.anomaly.statistic, ""],
];

const EMPTY = { all: "No image was scored.", anomalies: "No image is an anomaly at this false-alarm rate.", "not-judged": "Every image was judged." };

// Module state, so that scores are kept while the user visits other pages.
const state = {
  models: null, model: null, alpha: null, smallest: null, reference: null, awaited: null, examples: [],
  open: null, filter: "all", sorted: null, down: false, shown: PAGE_SIZE, over: false, error: null,
};
let redraw = () => undefined;
const queue = new Queue({ changed: () => { refreshReference(queue.by); redraw(); }, failed: complain });

export function mount(root) {
  let scheduled = false;
  redraw = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; if (root.isConnected) render(view(), root); });
  };
  const paste = (event) => { const files = pasted(event.clipboardData); if (files.length) { event.preventDefault(); queue.add(files); } };
  // The whole page accepts drops, or the browser would open a file that misses the drop area.
  const over = (event) => { event.preventDefault(); setOver(true); };
  const drop = async (event) => { event.preventDefault(); setOver(false); queue.add(await dropped(event.dataTransfer)); };
  const leave = (event) => { if (!event.relatedTarget) setOver(false); };
  const listeners = { paste, dragover: over, drop, dragleave: leave };
  for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
  render(view(), root);
  start();
  return () => {
    for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
    redraw = () => undefined;
  };
}

/** Scores files that come from another page: samples of a model. */
export function scoreFiles(model, files) {
  if (state.model !== model) choose(model);
  queue.add(files);
}

async function start() {
  try {
    const requested = sessionStorage.getItem(MODEL_KEY) ?? state.model;
    sessionStorage.removeItem(MODEL_KEY);
    const [models, examples] = await Promise.all([usableModels(requested), get("/console/examples/examples.json")]);
    Object.assign(state, { models, examples, error: null });
    const wanted = wantedModel(models, requested);
    if (wanted && wanted.name !== state.model) choose(wanted.name);
    else if (wanted) loadReference(wanted.name);
  } catch (error) {
    state.error = error;
  }
  redraw();
}

function choose(name) {
  Object.assign(state, { model: name, reference: null, open: null, alpha: null, smallest: null });
  queue.use(name);
  return loadReference(name);
}

/** Loads the calibration in use: its histogram and smallest p-value. */
async function loadReference(name) {
  state.awaited = name;
  try {
    const reference = await get(`/v1/models/${name}/reference`, { patient: true });
    if (state.model !== name) return;
    Object.assign(state, { reference, smallest: reference.smallest_p });
    state.alpha = Math.max(state.alpha ?? 0.01, reference.smallest_p);
  } catch (error) {
    complain(error);
  }
  if (state.awaited === name) state.awaited = null;
  redraw();
}

/** Loads the calibration if it is not known, or if the newest answer used another version or calibration. */
function refreshReference(by) {
  if (!by || state.awaited || sameCalibration(by, state.reference)) return;
  state.reference = null;
  loadReference(state.model);
}

function setOver(value) {
  if (state.over !== value) { state.over = value; redraw(); }
}

function toggle(item) {
  state.open = state.open === item.id ? null : item.id;
  redraw();
  explainOpen();
}

/** Loads the heat map of the opened image at the false-alarm rate in use. */
async function explainOpen() {
  const item = queue.items.find(({ id }) => id === state.open);
  const { result, by } = item ?? {};
  // Another calibration may have made another rate unattainable.
  const alpha = by && sameCalibration(by, state.reference) ? state.alpha : null;
  if (item?.state !== "ok" || item.asked === alpha || (item.explained && alpha === null)) return;
  item.asked = alpha;
  const isCurrent = () => item.result === result && item.asked === alpha; // another model may have scored it in the meantime
  item.explaining = true;
  try {
    const explained = await explain(item, alpha);
    if (isCurrent()) Object.assign(item, { explained, explaining: false });
  } catch (error) {
    if (isCurrent()) Object.assign(item, { explaining: error, asked: undefined });
  }
  redraw();
}

async function tryExamples(examples) {
  try {
    const files = await Promise.all(examples.map(async ({ file }) => {
      const response = await fetch(`/console/examples/${file}`);
      return { file: await response.blob(), name: file.split("/").at(-1) };
    }));
    queue.add(files);
  } catch (error) {
    complain(error);
  }
}

function sorted(items) {
  const column = COLUMNS.find(([name]) => name === state.sorted);
  if (!column) return items;
  const [sign, value] = [state.down ? -1 : 1, column[2]];
  const known = (item) => value(item) != null;
  return [...items].sort((a, b) => {
    if (!known(a) || !known(b)) return known(b) - known(a);
    const [x, y] = [value(a), value(b)];
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}

function sortBy(name) {
  if (state.sorted !== name) [state.sorted, state.down] = [name, false];
  else if (!state.down) state.down = true;
  else state.sorted = null;
  redraw();
}

function view() {
  if (state.error) return html`<h1>Score images</h1>${notice(state.error.message, "bad")}<div><button @click=${start}>Try again</button></div>`;
  if (!state.models) return html`<h1>Score images</h1>${waiting()}`;
  if (!state.models.length) return html`<h1>Score images</h1><p class="empty">There is no model yet. <a href="#/train">Train a model</a>.</p>`;
  const model = state.models.find((entry) => entry.name === state.model);
  if (!model) return html`<h1>Score images</h1><section class="card controls" aria-label="Model and false-alarm rate">${modelChoice(state.models, state.model, choose)}</section>`;
  const fitting = state.examples.filter((example) => String(example.shape) === String(model.image_shape) || (model.fit === "tiles" && example.shape[0] === model.image_shape[0]));
  return html`
    <div class="head"><div><h1>Score images</h1><p>Get the exact log-likelihood and a calibrated anomaly verdict for each image. Images stay on this service.</p></div></div>
    <section class="card controls" aria-label="Model and false-alarm rate">
      ${modelChoice(state.models, state.model, choose)}
      ${alphaChoice()}
    </section>
    <section class="drop ${state.over ? "over" : ""}" aria-label="Images">
      <p><strong>Drop images or folders here</strong>, paste an image, or</p>
      <div class="row">
        <label class="button">choose files<input class="sr-only" type="file" multiple accept=${TYPES} @change=${chosen}></label>
        <label class="button">choose a folder<input class="sr-only" type="file" webkitdirectory @change=${chosen}></label>
      </div>
      <p class="small faint">${model.name} accepts images (${accepted(model)}): PNG, JPEG, WebP, BMP, TIFF or GIF.</p>
      ${fitting.length ? exampleButtons(fitting) : nothing}
    </section>
    ${queue.items.length || queue.skipped ? results(model) : nothing}`;
}

function chosen(event) {
  queue.add(named([...event.target.files]));
  event.target.value = "";
}

function exampleButtons(fitting) {
  return html`<div class="examples"><span class="small">Or try an example</span>
    ${fitting.map((example) => html`<button class="example" title=${example.title} @click=${() => tryExamples([example])}>
      <img class="pixels" src="/console/examples/${example.file}" alt=${example.title} width="40" height="40"></button>`)}
    <button @click=${() => tryExamples(fitting)}>all ${fitting.length}</button></div>`;
}

function alphaChoice() {
  if (state.alpha == null) return html`<div class="field"><span class="label">False-alarm rate</span>${waiting()}</div>`;
  const [low, high] = [Math.log10(state.smallest), Math.log10(MAX_ALPHA)];
  const slide = (event) => {
    const value = 10 ** Number(event.target.value);
    state.alpha = Math.max(state.smallest, Number(value.toPrecision(2)));
    redraw();
  };
  return html`<div class="field">
    <label for="alpha">False-alarm rate: <output for="alpha">${brief(100 * state.alpha, 2)} %</output></label>
    <input id="alpha" type="range" min=${low} max=${high} step="0.01" .value=${String(Math.log10(state.alpha))} @input=${slide} @change=${explainOpen}
      aria-valuetext="${brief(100 * state.alpha, 2)} percent">
    <small>At most this share of images like the calibration images is flagged. The smallest attainable is ${smallestRate(state.smallest)}.</small>
  </div>`;
}

function results(model) {
  const scored = queue.items.filter((item) => item.state === "ok");
  const anomalies = scored.filter((item) => flagged(item.result)).length;
  const errors = queue.items.filter((item) => item.state === "error").length;
  const outdated = queue.outdated.length;
  const rows = sorted(kept(queue.items, state.filter, flagged));
  return html`<section class="card" aria-label="Scores">
    <header>
      <p role="status"><strong>${count(scored.length, "image")}</strong> scored${queue.by ? ` by ${queue.by.model}:${queue.by.version}` : ""},
        <span class="badge ${anomalies ? "bad" : "good"}">${count(anomalies, "anomaly", "anomalies")}</span>
        ${errors ? html`<span class="badge warn">${count(errors, "file")} not scored</span>` : nothing}
        ${queue.skipped ? html`<span class="badge">${count(queue.skipped, "file")} skipped: hidden files, files of systems, texts</span>` : nothing}</p>
      <div class="row">
        <button @click=${() => download(rows)} ?disabled=${!queue.done || !rows.length}>Download CSV${state.filter === "all" ? "" : ` of ${whole(rows.length)} of ${count(queue.items.length, "image")}`}</button>
        <button @click=${() => { Object.assign(state, { open: null, filter: "all" }); queue.clear(); }}>Clear</button>
      </div>
    </header>
    ${outdated ? html`<div class="row">${notice(`${count(outdated, "image")} scored by an earlier version or calibration of ${queue.by.model}.`, "warn")}
      <button @click=${() => queue.use(state.model)}>Score all again</button></div>` : nothing}
    ${segments("filter", html`<span class="sr-only">Shown images</span>`, options(queue.items, flagged), state.filter, (filter) => { Object.assign(state, { filter, shown: PAGE_SIZE }); redraw(); })}
    ${queue.busy ? html`<div class="row"><progress max=${queue.items.length} .value=${queue.done} aria-label="Scoring"></progress>
      <span class="small faint">${whole(queue.done)} of ${whole(queue.items.length)}</span><button @click=${() => queue.drop()}>Stop</button></div>` : nothing}
    <div class="scroll"><table class="scores">
      <thead><tr><th><span class="sr-only">preview</span></th>${columns(model).map(([key, label, , kind]) => html`<th class=${kind} aria-sort=${order(key)}>
        <button @click=${() => sortBy(key)}>${label} ${state.sorted === key ? (state.down ? "▼" : "▲") : ""}</button></th>`)}</tr></thead>
      <tbody>${repeat(rows.slice(0, state.shown), (item) => item.id, (item) => row(item, model))}</tbody>
    </table></div>
    ${rows.length || queue.busy ? nothing : html`<p class="empty">${EMPTY[state.filter]}</p>`}
    ${rows.length > state.shown ? html`<div class="row"><button @click=${() => { state.shown += PAGE_SIZE; redraw(); }}>Show ${Math.min(PAGE_SIZE, rows.length - state.shown)} more</button>
      <span class="small faint">of ${whole(rows.length)}</span></div>` : nothing}
  </section>`;
}

/** Downloads the shown images in the shown order; the name of the file says which they are. */
function download(rows) {
  const part = state.filter === "all" ? "" : `-${state.filter}`;
  save(new Blob([csv(rows, state.alpha)], { type: "text/csv" }), `scores-${state.model}${part}.csv`);
}

// A density of features has no bits per dimension.
const columns = (model) => COLUMNS.filter(([key]) => key !== "bits_per_dim" || !ofFeatures(model));

function order(key) {
  return state.sorted !== key ? "none" : state.down ? "descending" : "ascending";
}

// The shape of the picture that boxes are in: of an image that is scored tile by tile its own.
const shownShape = ({ preprocessing }, { image_shape: shape, fit }) => (fit === "tiles" && preprocessing?.size ? [shape[0], ...[...preprocessing.size].reverse()] : shape);

function row(item, model) {
  const open = state.open === item.id && item.state === "ok";
  const { result } = item;
  // A click anywhere in the row; the button in it is for the keyboard, and text can be selected.
  const click = ({ target }) => { if (!target.closest("button") && !String(getSelection())) toggle(item); };
  return html`<tr class="${open ? "open" : ""} ${result ? "opens" : ""}" @click=${result ? click : nothing}>
    <td class="thumb">${SHOWN.test(item.file.type) ? html`<img class="pixels" src=${item.url} alt="" loading="lazy">` : nothing}</td>
    <td class="break name">${result ? html`<button class="link" aria-expanded=${open} @click=${() => toggle(item)}>${item.name}</button>` : item.name}</td>
    ${result ? html`<td class="num" data-label="nats">${fixed(result.log_likelihood, 2)}</td>${ofFeatures(model) ? nothing : html`<td class="num" data-label="bits/dim">${fixed(result.bits_per_dim, 4)}</td>`}
        <td class="num" data-label="p">${brief(result.anomaly.p_value, 3)}</td><td class="verdict">${verdict(result)}</td>`
      : html`<td colspan=${columns(model).length - 1} class="small wide">${item.error ? html`<span class="badge warn">${item.error.title}</span> ${item.error.detail}` : html`<span class="faint">${item.state} ...</span>`}</td>`}
  </tr>
  ${open ? html`<tr class="opened"><td colspan=${columns(model).length + 1}>${detail(item, { alpha: alphaOf(result), reference: sameCalibration(item.by, state.reference) ? state.reference : null, outdated: !sameCalibration(item.by, queue.by), shape: result && shownShape(result, model) })}</td></tr>` : nothing}`;
}

// Until the calibration is loaded, the false-alarm rate of the service applies.
const alphaOf = (result) => state.alpha ?? result.anomaly.alpha;
const flagged = (result) => result.anomaly.p_value <= alphaOf(result);

function verdict(result) {
  return html`<span class="badge ${flagged(result) ? "bad" : "good"}">${flagged(result) ? "anomaly" : "normal"}</span>`;
}
