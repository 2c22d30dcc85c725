// Components that several pages share.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { accepted } from "./format.js";
import { get, getAll } from "./service.js";

const DEFAULT_MODEL = "mnist-snf-glow";

/** Returns the models that can score. Damaged models are left out; the version `requested` is added if it is given.
 *  A model without a live version is named by its newest version, because its plain name cannot score. */
export async function usableModels(requested = null) {
  const models = (await getAll("/v1/models", "models")).filter((model) => model.image_shape && model.state !== "failed")
    .map((model) => (model.state === "unfit" ? { ...model, name: `${model.name}:${Math.max(...model.versions)}` } : model));
  if (!requested || !/[:@]/.test(requested) || models.some(({ name }) => name === requested)) return models;
  const version = await get(`/v1/models/${requested}`).catch(ignoreMissing);
  if (!version) return models; // it was deleted
  const { channels, height, width, fit } = version.manifest.preprocessing;
  return [...models, { name: requested, kind: version.kind, image_shape: [channels, height, width], fit, unfit: version.unfit }];
}

/** Returns null for an error that something does not exist; throws any other error. */
function ignoreMissing(error) {
  if (error.status !== 404) throw error;
  return null;
}

/** Returns why a model is unfit, as one text; an empty one for a fit model. */
export const unfitText = (unfit) => (unfit?.length ? `This model is unfit: ${unfit.map(({ detail }) => detail).join("; ")}.` : "");

/** Whether log-likelihoods of a model are densities of features: without bits per dimension and without samples. */
export const ofFeatures = (model) => model?.kind === "feature_density";

/** Returns the model called `name`, else the default model, else the first that is fit; undefined if there is none. */
export function wantedModel(models, name) {
  const fit = models.filter(({ unfit }) => !unfit?.length);
  return models.find((model) => model.name === name) ?? fit.find((model) => model.name === DEFAULT_MODEL) ?? fit[0];
}

/** Renders a selection of one model, and why the chosen one is unfit. */
export function modelChoice(models, chosen, choose) {
  const current = models.find(({ name }) => name === chosen);
  return html`<div class="field">
    <label for="model">Model</label>
    <select id="model" @change=${(event) => choose(event.target.value)}>
      ${current ? nothing : html`<option value="" disabled selected>choose a model</option>`}
      ${models.map((model) => html`<option value=${model.name} ?selected=${model.name === chosen}>${model.name} (${accepted(model)}${model.unfit?.length ? ", unfit" : ""})</option>`)}
    </select>
    ${notice(current ? unfitText(current.unfit) : "All models are unfit, so none is selected.", "bad")}
  </div>`;
}

/** Renders radio buttons in a row; `options` are [value, label]. */
export function segments(name, legend, options, chosen, choose) {
  return html`<fieldset><legend>${legend}</legend><div class="segments">
    ${options.map(([value, label]) => html`<label><input type="radio" name=${name} .value=${value}
      .checked=${value === chosen} @change=${() => choose(value)}>${label}</label>`)}
  </div></fieldset>`;
}

const BADGE_CLASSES = {
  queued: "", starting: "accent", running: "accent", paused: "warn", succeeded: "good", partial: "warn", failed: "bad", cancelled: "",
  finished: "good", unfinished: "warn", ready: "good", loading: "accent", idle: "", unfit: "bad",
};

/** Renders the state of a job or a model as a coloured badge. */
export function stateBadge(state) {
  return html`<span class="badge ${BADGE_CLASSES[state] ?? ""}">${state}</span>`;
}

/** Renders a message; nothing if `text` is empty. */
export function notice(text, kind = "") {
  return text ? html`<p class="notice ${kind}">${text}</p>` : nothing;
}

/** Renders an error with a button that tries again. */
export function failure(error, again) {
  return html`<div class="row">${notice(error.message, "bad")}<button type="button" @click=${again}>Try again</button></div>`;
}

/** Renders a placeholder while data is loading. */
export function waiting(text = "Loading ...") {
  return html`<p class="empty" aria-busy="true">${text}</p>`;
}

/** Renders pairs of a name and a value; pairs without a value are left out. */
export function facts(pairs) {
  return html`<dl class="facts">${pairs.filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => html`<dt>${name}</dt><dd class="break">${value}</dd>`)}</dl>`;
}
