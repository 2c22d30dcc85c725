// Pieces of pages that more than one has.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { shape } from "./format.js";
import { get } from "./service.js";

const FIRST = "mnist-snf-glow";

/** The models that can be used, for a choice; a damaged one is left out, a version that was asked for is added. */
export async function usableModels(asked = null) {
  const found = (await get("/v1/models")).models.filter((one) => one.image_shape && one.state !== "failed");
  if (!asked || !/[:@]/.test(asked)) return found;
  const version = await get(`/v1/models/${asked}`);
  return [...found, { name: asked, image_shape: version.manifest.preprocessing.shape }];
}

/** The model of a name, or else one to begin with; none where there is none. */
export function wantedModel(models, name) {
  return models.find((one) => one.name === name) ?? models.find((one) => one.name === FIRST) ?? models[0];
}

/** A choice of one model. */
export function modelChoice(models, chosen, choose) {
  return html`<div class="field">
    <label for="model">Model</label>
    <select id="model" @change=${(event) => choose(event.target.value)}>
      ${models.map((one) => html`<option value=${one.name} ?selected=${one.name === chosen}>${one.name} (${shape(one.image_shape)})</option>`)}
    </select>
  </div>`;
}

/** One of a few, as a row of buttons: `options` are [value, label]. */
export function segments(name, legend, options, chosen, choose) {
  return html`<fieldset><legend>${legend}</legend><div class="segments">
    ${options.map(([value, label]) => html`<label><input type="radio" name=${name} .value=${value}
      .checked=${value === chosen} @change=${() => choose(value)}>${label}</label>`)}
  </div></fieldset>`;
}

const LOOKS = {
  queued: "", starting: "accent", running: "accent", paused: "warn", succeeded: "good", failed: "bad", cancelled: "",
  ready: "good", loading: "accent", idle: "",
};

/** A state of a job or a model, coloured by whether it is a good one. */
export function stateBadge(state) {
  return html`<span class="badge ${LOOKS[state] ?? ""}">${state}</span>`;
}

/** A message in the page. */
export function notice(text, kind = "") {
  return text ? html`<p class="notice ${kind}">${text}</p>` : nothing;
}

/** What went wrong, and another try. */
export function failure(error, again) {
  return html`<div class="row">${notice(error.message, "bad")}<button type="button" @click=${again}>Try again</button></div>`;
}

/** What a page shows while its first data are on their way. */
export function waiting(text = "Loading ...") {
  return html`<p class="empty" aria-busy="true">${text}</p>`;
}

/** Pairs of a name and a value. */
export function facts(pairs) {
  return html`<dl class="facts">${pairs.filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => html`<dt>${name}</dt><dd class="break">${value}</dd>`)}</dl>`;
}
