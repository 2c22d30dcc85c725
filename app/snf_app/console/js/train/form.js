// The training form: preset, model name, budget and parameters, with a live estimate.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { facts, segments, waiting } from "../parts.js";
import { get, getAll } from "../service.js";
import { Estimate } from "./estimate.js";
import { byField, problem } from "./messages.js";
import { nameFrom, wrongName } from "./names.js";
import { filledIn, parameterFields } from "./parameters.js";
import { Recommendation } from "./recommendation.js";

const DEFAULT_MINUTES = 10;
const FAMILIES = [["features", "defects of parts: features"], ["glow", "image quality: pixels"], ["hybrid", "both"]];

export class Form {
  /** `queued` is called with the new job. */
  constructor({ changed, queued }) {
    Object.assign(this, {
      changed, queued, presets: null, schema: null, models: [], devices: [], error: null,
      dataset: null, preset: null, model: null, named: false, budget: "minutes", minutes: String(DEFAULT_MINUTES), steps: "",
      promote: false, device: "auto", typed: {}, key: null, sending: false, refused: null,
    });
    this.estimate = new Estimate({ changed });
    this.recommendation = new Recommendation({ changed, adopt: (preset, parameters) => this.adopt(preset, parameters) });
  }

  async load() {
    try {
      const [{ presets, parameters, default: defaultPreset }, models] = await Promise.all([get("/v1/presets"), getAll("/v1/models", "models")]);
      Object.assign(this, { presets, schema: parameters, models, error: null });
      this.preset ??= defaultPreset;
      this.steps ||= String(this.parameter("max_steps"));
      this.suggest();
      this.edit({});
    } catch (error) {
      this.error = error;
      this.changed();
      return;
    }
    // Without the job store there is no list of workers; the device selection is then hidden.
    const workers = await get("/v1/workers").then((answer) => answer.workers, () => []);
    this.devices = [...new Set(workers.map(({ device }) => device.split(":")[0]))];
    this.changed();
  }

  get chosen() {
    return this.presets.find(({ name }) => name === this.preset);
  }

  parameter(name) {
    return this.chosen.parameters[name] ?? this.schema.properties[name].default;
  }

  /** Selects the training dataset; null for none. */
  use(dataset) {
    this.dataset = dataset;
    this.recommendation.use(dataset);
    this.suggest();
    this.edit({});
  }

  suggest() {
    if (!this.named && this.dataset) this.model = nameFrom(this.dataset, this.models.map(({ name }) => name));
  }

  edit(change) {
    Object.assign(this, change, { refused: null, key: null });
    this.estimate.update(this.presets && this.dataset && !wrongName(this.model ?? "") ? this.request() : null);
  }

  /** Whether the preset is trained by steps; others are fitted in closed form. */
  get bySteps() {
    return this.chosen.accepts.includes("max_steps");
  }

  /** Whether there is a device to choose. */
  get hasDevices() {
    return this.bySteps && this.devices.includes("cuda");
  }

  /** The model that gets a new version; undefined if the name is new. */
  get existing() {
    return this.models.find(({ name }) => name === this.model);
  }

  /** Returns the schema of the parameters that the preset takes. */
  get accepted() {
    const properties = Object.entries(this.schema.properties).filter(([name]) => this.chosen.accepts.includes(name));
    return { ...this.schema, properties: Object.fromEntries(properties) };
  }

  /** Returns the body of the request. */
  request() {
    const { accepted } = this;
    const typed = Object.fromEntries(Object.entries(this.typed).filter(([name]) => name in accepted.properties));
    // Choices that the form does not show now are not sent.
    const [promote, device] = [Boolean(this.existing) && this.promote, this.hasDevices ? this.device : "auto"];
    const minutes = this.budget === "minutes";
    const budget = minutes ? { max_minutes: Number(this.minutes) } : { max_steps: Number(this.steps) };
    return {
      type: "train", dataset: this.dataset, model: this.model, preset: this.preset, promote, device,
      parameters: { ...filledIn(accepted, typed), ...(this.bySteps ? budget : {}) },
    };
  }

  async start(force = false) {
    if (this.sending) return;
    // The key is kept until an answer arrives, so that a repeated request does not create a second job.
    this.key ??= [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    Object.assign(this, { sending: true, refused: null });
    this.changed();
    try {
      const headers = { "Idempotency-Key": this.key };
      const job = await get("/v1/jobs", { method: "POST", json: { ...this.request(), force }, headers });
      Object.assign(this, { key: null, named: false });
      this.queued(job);
    } catch (error) {
      if (error.status >= 400 && error.status < 500) this.key = null;
      this.refused = error;
    }
    this.sending = false;
    this.changed();
  }

  view() {
    return html`<section class="card" aria-labelledby="training-title">
      <h2 id="training-title">2. Training</h2>
      ${problem(this.error)}
      ${this.presets ? this.fields() : this.error ? html`<div><button @click=${() => this.load()}>Try again</button></div>` : waiting("Loading presets ...")}
    </section>`;
  }

  fields() {
    const wrong = { ...byField(this.estimate.error), ...byField(this.refused) };
    const wrongModel = this.model === null ? null : wrongName(this.model);
    const { existing } = this;
    return html`<form class="stack loose" novalidate @submit=${(event) => { event.preventDefault(); if (!hasUnreadable(event.target)) this.start(); }}>
      ${this.recommendation.view()}
      ${this.presetFields()}
      <div class="field"><label for="model-name">Name of the model</label>
        <input id="model-name" maxlength="64" spellcheck="false" autocomplete="off" aria-invalid=${Boolean(wrongModel || wrong.model)} aria-describedby="model-name-help"
          .value=${live(this.model ?? "")} @input=${(event) => this.edit({ model: event.target.value, named: event.target.value !== "" })}>
        <small id="model-name-help" class=${wrongModel || wrong.model ? "wrong" : ""}>${wrongModel ?? wrong.model ?? (existing ? `Creates version ${Math.max(...existing.versions) + 1}.` : this.model === null ? "Suggested when a dataset is chosen." : "Creates version 1, which is live at once.")}</small></div>
      ${this.bySteps ? html`<div class="row budget">
        ${segments("budget", "Budget", [["minutes", "minutes"], ["steps", "steps"]], this.budget, (budget) => this.edit({ budget }))}
        ${this.budgetField(wrong)}
      </div>` : nothing}
      ${this.hasDevices ? segments("device", "Device", [["auto", "auto"], ["cpu", "CPU"], ["cuda", "GPU"]], this.device, (device) => this.edit({ device })) : nothing}
      ${existing ? html`<label class="check"><input type="checkbox" .checked=${live(this.promote)} @change=${(event) => this.edit({ promote: event.target.checked })}> Make the new version live after training, even if it is unfit</label>` : nothing}
      <details class="more"><summary>More parameters${Object.values(this.typed).some((text) => text !== "") ? html` <span class="badge accent">changed</span>` : nothing}</summary>
        ${presetDefaults(this.chosen)}
        ${parameterFields({ schema: this.accepted, preset: this.chosen, typed: this.typed, wrong, change: (name, text) => this.edit({ typed: { ...this.typed, [name]: text } }) })}
        <button type="button" class="quiet" @click=${() => this.edit({ typed: {} })}>Reset to defaults</button>
      </details>
      ${this.estimate.view()}
      ${problem(this.refused)}
      ${["out-of-memory-expected", "too-long-expected"].includes(this.refused?.type) ? html`<div class="row end"><button type="button" ?disabled=${this.sending} @click=${(event) => hasUnreadable(event.target.form) || this.start(true)}>Start anyway</button></div>` : nothing}
      <div class="row end">${this.dataset ? nothing : html`<span class="small faint">Choose a dataset first.</span>`}<button class="primary" ?disabled=${this.sending || !this.dataset || Boolean(wrongModel) || this.estimate.refused}>${this.sending ? "Starting ..." : "Start training"}</button></div>
    </form>`;
  }

  /** Renders the choice of a family and of its size; presets of the paper and for comparison are folded away. */
  presetFields() {
    const { chosen, presets } = this;
    const usual = presets.filter(isUsual);
    const of = (family) => usual.filter((preset) => preset.family === family);
    const sizes = isUsual(chosen) ? of(chosen.family) : [];
    const middle = (family) => of(family)[of(family).length >> 1].name;
    const option = ({ name, purpose }) => html`<option value=${name} .selected=${name === this.preset}>${name}: ${purpose}</option>`;
    return html`${segments("family", "What to find", FAMILIES.filter(([family]) => of(family).length), isUsual(chosen) ? chosen.family : null, (family) => this.choosePreset(middle(family)))}
      ${sizes.length > 1 ? segments("size", "Size", sizes.map(({ name }) => [name, name.split("-").at(-1)]), this.preset, (name) => this.choosePreset(name)) : nothing}
      <p class="small faint">${chosen.name}, for ${chosen.purpose}${isUsual(chosen) ? "" : `. Linear layers: ${chosen.linear}`}.</p>
      <details ?open=${!isUsual(chosen)}><summary>Presets of the paper and for comparison</summary>
        <div class="field"><label for="preset">Preset</label><select id="preset" @change=${(event) => this.choosePreset(event.target.value)}>
          <optgroup label="usual">${usual.map(option)}</optgroup>
          <optgroup label="of the paper and for comparison">${presets.filter((preset) => !isUsual(preset)).map(option)}</optgroup>
        </select></div></details>`;
  }

  /** Fills the form with a proposed preset and the options of the images that it was compared with. */
  adopt(preset, parameters) {
    const typed = Object.entries(parameters).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
    this.choosePreset(preset);
    this.edit({ typed: Object.fromEntries(typed) });
    this.changed();
  }

  choosePreset(preset) {
    this.preset = preset;
    this.edit({ steps: String(this.parameter("max_steps")) });
  }

  budgetField(wrong) {
    const minutes = this.budget === "minutes";
    const name = minutes ? "max_minutes" : "max_steps";
    const message = wrong[`parameters/${name}`];
    return html`<div class="field"><label class="sr-only" for="budget-number">${minutes ? "Minutes" : "Steps"}</label>
      <input id="budget-number" type="number" min=${minutes ? 0.1 : 1} step=${minutes ? "any" : 1} aria-invalid=${Boolean(message)}
        .value=${live(minutes ? this.minutes : this.steps)} @input=${(event) => this.edit({ [this.budget]: event.target.value })}>
      ${message ? html`<small class="wrong">${message}</small>` : nothing}</div>`;
  }
}

/** Returns whether a form has a number that cannot be read, which would be sent as its default; the browser says so there. */
function hasUnreadable(form) {
  const field = [...form.elements].find(({ validity }) => validity?.badInput);
  if (!field) return false;
  const collapsed = field.closest("details");
  if (collapsed) collapsed.open = true;
  field.reportValidity();
  return true;
}

/** Returns whether a preset is for use: its layers are self-normalizing, and it does not reproduce the paper. */
function isUsual({ family, linear, purpose }) {
  return FAMILIES.some(([name]) => name === family) && linear === "self-normalizing" && !purpose.startsWith("reproduction");
}

function presetDefaults({ name, parameters }) {
  const own = Object.entries(parameters);
  if (!own.length) return nothing;
  return html`<div class="sunken stack small"><p>Defaults of ${name}:</p>${facts(own.map(([key, value]) => [key.replaceAll("_", " "), String(value)]))}</div>`;
}
