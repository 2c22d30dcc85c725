// The Samples page: images sampled from a model by its exact inverse, its learned inverse, or both for comparison.
import { html, nothing, render } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { fixed, shape } from "../format.js";
import { modelChoice, notice, ofFeatures, segments, usableModels, waiting, wantedModel } from "../parts.js";
import { differences, pngBlob } from "../samples/difference.js";
import { call, get, isAbort, pause, save } from "../service.js";
import { complain } from "../toast.js";

export const title = "Samples";

const DEBOUNCE_MS = 200;
const COUNTS = [4, 16, 36, 64].map((n) => [n, String(n)]);
const INVERSES = [["exact", "exact"], ["learned", "learned"], ["both", "both"]];
const SEEDS = 2 ** 31;

const state = {
  models: null, model: null, count: 16, temperature: 0.8, seed: 1, inverse: "exact", learned: null,
  drawn: null, busy: false, error: null, open: null,
};
let redraw = () => undefined;
let stopped = new AbortController();

export function mount(root, argument) {
  redraw = () => { if (root.isConnected) render(view(), root); };
  if (argument) state.model = argument;
  redraw();
  start();
  return () => { redraw = () => undefined; };
}

async function start() {
  try {
    state.models = await usableModels(state.model);
    const wanted = wantedModel(state.models, state.model);
    if (wanted) await choose(wanted.name);
  } catch (error) {
    state.error = error;
  }
  redraw();
}

/** Draws by a seed that was typed. Rendering alone does not write into the field: a user may be typing there. */
function seedTyped(field) {
  const seed = Math.min(SEEDS, Math.max(0, Math.trunc(Number(field.value)) || 0));
  field.value = String(seed);
  set({ seed });
}

const chosen = () => state.models.find(({ name }) => name === state.model);

async function choose(name) {
  if (state.model !== name) state.drawn = null;
  Object.assign(state, { model: name, learned: null });
  if (ofFeatures(chosen())) {
    stopped.abort();
    Object.assign(state, { busy: false, error: null, open: null });
    redraw();
    return;
  }
  draw();
  try {
    const detail = await get(`/v1/models/${name}`);
    if (state.model !== name) return;
    state.learned = detail.serving?.has_learned_inverse ?? null;
    if (state.learned === false && state.inverse !== "exact") set({ inverse: "exact" });
  } catch (error) {
    complain(error);
  }
  redraw();
}

function set(change) {
  Object.assign(state, change);
  draw();
}

/** Requests samples for the current settings and cancels the previous request. */
async function draw() {
  stopped.abort();
  stopped = new AbortController();
  const { signal } = stopped;
  Object.assign(state, { busy: true, error: null, open: null });
  redraw();
  try {
    await pause(DEBOUNCE_MS, signal);
    const kinds = state.inverse === "both" ? ["exact", "learned"] : [state.inverse];
    const answers = await Promise.all(kinds.map((inverse) => get(path(), { query: { ...query(), inverse, format: "json" }, signal, patient: true })));
    const grids = Object.fromEntries(answers.map((answer) => [answer.inverse, answer.samples.map((sample) => ({ ...sample, src: `data:image/png;base64,${sample.png}` }))]));
    const compared = state.inverse === "both" ? await differences(grids.exact.map((sample, i) => [sample.png, grids.learned[i].png])) : null;
    if (signal.aborted) return;
    Object.assign(state, { drawn: { grids, compared, by: answers[0] }, busy: false });
  } catch (error) {
    if (isAbort(error) || signal.aborted) return;
    Object.assign(state, { busy: false, error });
  }
  redraw();
}

const path = () => `/v1/models/${state.model}/samples`;
const query = () => ({ n: state.count, temperature: state.temperature, seed: state.seed });

async function download(format, ending) {
  try {
    const inverse = state.inverse === "learned" ? "learned" : "exact";
    const answer = await call(path(), { query: { ...query(), inverse, format }, patient: true });
    save(await answer.blob(), `${state.model}-seed-${state.seed}.${ending}`);
  } catch (error) {
    complain(error);
  }
}

async function score(sample, index) {
  const { scoreFiles } = await import("./score.js");
  scoreFiles(state.model, [{ file: pngBlob(sample.png), name: `${state.model}-seed-${state.seed}-${index}.png` }]);
  location.hash = "#/score";
}

function view() {
  const head = html`<div class="head"><div><h1>Samples</h1><p>Images sampled from a model. The same seed gives the same images.</p></div></div>`;
  if (!state.models) return html`${head}${state.error ? notice(state.error.message, "bad") : waiting()}`;
  if (!state.models.length) return html`${head}<p class="empty">There is no model yet. <a href="#/train">Train a model</a>.</p>`;
  if (!chosen()) return html`${head}<section class="card" aria-label="Sampling options">${modelChoice(state.models, state.model, choose)}</section>`;
  if (ofFeatures(chosen())) {
    return html`${head}<section class="card" aria-label="Sampling options">${modelChoice(state.models, state.model, choose)}
      <p class="notice">This model has no samples: its log-likelihood is a density of features, and features have no way back to pixels.</p></section>`;
  }
  return html`${head}
    <div class="aside">
      <section class="card" aria-label="Sampling options">
        ${modelChoice(state.models, state.model, choose)}
        ${segments("count", "Images", COUNTS, state.count, (count) => set({ count }))}
        <div class="field">
          <label for="temperature">Temperature: <output for="temperature">${fixed(state.temperature, 2)}</output></label>
          <input id="temperature" type="range" min="0" max="1.5" step="0.05" .value=${live(String(state.temperature))}
            @input=${(event) => set({ temperature: Number(event.target.value) })}>
          <small>Temperature 1 samples from the model's density. Lower values give more typical images. At 0 all images are equal.</small>
        </div>
        <div class="field">
          <label for="seed">Seed</label>
          <div class="row nowrap"><input id="seed" type="number" min="0" max=${SEEDS} step="1" .value=${String(state.seed)}
            @change=${(event) => seedTyped(event.target)}>
            <button @click=${() => set({ seed: Math.floor(Math.random() * SEEDS) })}>Random</button></div>
        </div>
        ${state.learned === false ? html`<p class="small faint">This model has no learned inverse. All its layers are inverted exactly.</p>`
          : segments("inverse", "Inverse", INVERSES, state.inverse, (inverse) => set({ inverse }))}
        <div class="row">
          <button @click=${() => download("png", "png")}>Download PNG</button>
          <button @click=${() => download("npy", "npy")}>NumPy array</button>
        </div>
      </section>
      <section class="stack" aria-label="Samples" aria-busy=${state.busy}>
        ${state.error ? notice(`${state.error.title}: ${state.error.message}`, "bad") : nothing}
        ${state.drawn ? drawn() : state.error ? nothing : waiting("Sampling ...")}
      </section>
    </div>`;
}

function drawn() {
  const { grids, compared, by } = state.drawn;
  const titles = { exact: "Exact inverse", learned: "Learned inverse" };
  return html`
    <p class="small faint" role="status">${by.model}:${by.version}, seed ${by.seed}, temperature ${fixed(by.temperature, 2)}${state.busy ? ", updating ..." : ""}</p>
    <div class=${compared ? "columns three" : "stack"}>
      ${Object.entries(grids).map(([inverse, samples]) => grid(titles[inverse], samples, inverse))}
      ${compared ? html`<figure class="card figure" aria-labelledby="difference"><h2 id="difference">Difference</h2>
        <div class="samples ${state.busy ? "stale" : ""}" .style=${columns(compared.pictures.length)}>
          ${compared.pictures.map((src) => html`<img class="pixels" src=${src} alt="">`)}</div>
        <figcaption>${compared.largest ? html`White is ${compared.largest} of 255 grey levels, the largest difference.` : "No difference: all pixels are equal."}</figcaption></figure>` : nothing}
    </div>
    ${state.open ? opened() : nothing}`;
}

function open(selection) {
  state.open = selection;
  redraw();
  document.querySelector(".opened-sample")?.scrollIntoView({ block: "nearest" });
}

function grid(heading, samples, inverse) {
  const bits = samples.reduce((sum, sample) => sum + sample.bits_per_dim, 0) / samples.length;
  return html`<figure class="card figure" aria-labelledby=${inverse}><h2 id=${inverse}>${heading}</h2>
    <div class="samples ${state.busy ? "stale" : ""}" .style=${columns(samples.length)}>
      ${samples.map((sample, index) => html`<button aria-label="Sample ${index + 1}, ${fixed(sample.bits_per_dim, 3)} bits per dimension"
        @click=${() => open({ sample, index, inverse })}><img class="pixels" src=${sample.src} alt=""></button>`)}</div>
    <figcaption>${fixed(bits, 3)} bits/dim on average. Select a sample to see its log-likelihood.</figcaption></figure>`;
}

const columns = (count) => `grid-template-columns: repeat(${Math.round(Math.sqrt(count))}, 1fr)`;

function opened() {
  const { sample, index, inverse } = state.open;
  const model = state.models.find(({ name }) => name === state.model);
  return html`<section class="card opened-sample" aria-label="Selected sample">
    <img class="pixels" src=${sample.src} alt="Sample ${index + 1}, enlarged" width="168" height="168">
    <div class="stack">
      <h2>Sample ${index + 1}, ${inverse} inverse</h2>
      <p>${fixed(sample.log_likelihood, 3)} nats, ${fixed(sample.bits_per_dim, 4)} bits/dim: exact log-likelihood of the 8-bit pixels (${shape(model?.image_shape)}).</p>
      <div class="row"><button class="primary" @click=${() => score(sample, index + 1).catch(complain)}>Score this sample</button>
        <button @click=${() => { state.open = null; redraw(); }}>Close</button></div>
    </div></section>`;
}
