// A new training: preset, name, budget and parameters; it is estimated as it is filled in, and queued once.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { facts, segments, waiting } from "../parts.js";
import { get } from "../service.js";
import { Estimate } from "./estimate.js";
import { byField, problem } from "./messages.js";
import { nameFrom, wrongName } from "./names.js";
import { given, parameterFields } from "./parameters.js";

const MINUTES = 10;

export class Form {
  /** `queued` is called with the job that the service took. */
  constructor({ changed, queued }) {
    Object.assign(this, {
      changed, queued, presets: null, schema: null, models: [], devices: [], error: null,
      dataset: null, preset: null, model: null, named: false, budget: "minutes", minutes: String(MINUTES), steps: "",
      promote: false, device: "auto", typed: {}, key: null, sending: false, refused: null,
    });
    this.estimate = new Estimate({ changed });
  }

  async load() {
    try {
      const [{ presets, parameters, default: usual }, { models }] = await Promise.all([get("/v1/presets"), get("/v1/models")]);
      Object.assign(this, { presets, schema: parameters, models, error: null });
      this.preset ??= usual;
      this.steps ||= String(this.parameter("max_steps"));
      this.suggest();
      this.edit({});
    } catch (error) {
      this.error = error;
      this.changed();
      return;
    }
    // Without the job store nobody knows; jobs then go where they go by themselves.
    const workers = await get("/v1/workers").then((found) => found.workers, () => []);
    this.devices = [...new Set(workers.map((one) => one.device.split(":")[0]))];
    this.changed();
  }

  get chosen() {
    return this.presets.find((one) => one.name === this.preset);
  }

  parameter(name) {
    return this.chosen.parameters[name] ?? this.schema.properties[name].default;
  }

  /** Another dataset is to be trained on. */
  use(dataset) {
    this.dataset = dataset;
    this.suggest();
    this.edit({});
  }

  suggest() {
    if (!this.named && this.dataset) this.model = nameFrom(this.dataset, this.models.map((one) => one.name));
  }

  edit(change) {
    Object.assign(this, change, { refused: null, key: null });
    this.estimate.about(this.presets && this.dataset && !wrongName(this.model ?? "") ? this.request() : null);
  }

  /** The job as the service takes it. */
  request() {
    const minutes = this.budget === "minutes";
    // The schedule follows whichever budget is further used: minutes alone count where steps are as many as may be.
    const budget = minutes
      ? { max_minutes: Number(this.minutes), max_steps: this.schema.properties.max_steps.maximum } : { max_steps: Number(this.steps) };
    return {
      type: "train", dataset: this.dataset, model: this.model, preset: this.preset, promote: this.promote, device: this.device,
      parameters: { ...given(this.schema, this.typed), ...budget },
    };
  }

  async start(force = false) {
    if (this.sending) return;
    // Kept until there is an answer, so that asking again after a lost one makes no second job.
    this.key ??= [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
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
      ${this.presets ? this.fields() : this.error ? html`<div><button @click=${() => this.load()}>Ask again</button></div>` : waiting("Asking for the presets ...")}
    </section>`;
  }

  fields() {
    const wrong = { ...byField(this.estimate.error), ...byField(this.refused) };
    const wrongModel = wrongName(this.model ?? "");
    const known = this.models.find((one) => one.name === this.model);
    return html`<form class="stack loose" novalidate @submit=${(event) => { event.preventDefault(); this.start(); }}>
      <div class="field"><label for="preset">Preset</label>
        <select id="preset" @change=${(event) => this.choosePreset(event.target.value)}>
          ${families(this.presets).map(([family, presets]) => html`<optgroup label=${family}>
            ${presets.map((one) => html`<option value=${one.name} .selected=${one.name === this.preset}>${one.name}: ${one.purpose}</option>`)}</optgroup>`)}
        </select>
        <small>For ${this.chosen.purpose}. Linear layers: ${this.chosen.linear}.</small></div>
      <div class="field"><label for="model-name">Name of the model</label>
        <input id="model-name" maxlength="64" spellcheck="false" autocomplete="off" aria-invalid=${Boolean(wrongModel || wrong.model)} aria-describedby="model-name-help"
          .value=${live(this.model ?? "")} @input=${(event) => this.edit({ model: event.target.value, named: event.target.value !== "" })}>
        <small id="model-name-help" class=${wrongModel || wrong.model ? "wrong" : ""}>${wrongModel ?? wrong.model ?? (known ? `Becomes version ${Math.max(...known.versions) + 1} of it.` : "Becomes version 1, which serves at once.")}</small></div>
      <div class="row budget">
        ${segments("budget", "Budget", [["minutes", "minutes"], ["steps", "steps"]], this.budget, (budget) => this.edit({ budget }))}
        ${this.budgetField(wrong)}
      </div>
      ${this.devices.includes("cuda") ? segments("device", "Device", [["auto", "auto"], ["cpu", "CPU"], ["cuda", "GPU"]], this.device, (device) => this.edit({ device })) : nothing}
      ${known ? html`<label class="check"><input type="checkbox" .checked=${live(this.promote)} @change=${(event) => this.edit({ promote: event.target.checked })}> Make the new version live when it is trained</label>` : nothing}
      <details class="more"><summary>More parameters${Object.values(this.typed).some((text) => text !== "") ? html` <span class="badge accent">changed</span>` : nothing}</summary>
        ${differing(this.chosen)}
        ${parameterFields({ schema: this.schema, preset: this.chosen, typed: this.typed, wrong, change: (name, text) => this.edit({ typed: { ...this.typed, [name]: text } }) })}
        <button type="button" class="quiet" @click=${() => this.edit({ typed: {} })}>Back to the defaults</button>
      </details>
      ${this.estimate.view()}
      ${problem(this.refused)}
      ${this.refused?.type === "out-of-memory-expected" ? html`<div class="row end"><button type="button" ?disabled=${this.sending} @click=${() => this.start(true)}>Start it anyway</button></div>` : nothing}
      <div class="row end"><button class="primary" ?disabled=${this.sending || !this.dataset || Boolean(wrongModel)}>${this.sending ? "Starting ..." : "Start training"}</button></div>
    </form>`;
  }

  choosePreset(preset) {
    this.preset = preset;
    this.edit({ steps: String(this.parameter("max_steps")) });
  }

  budgetField(wrong) {
    const minutes = this.budget === "minutes";
    const name = minutes ? "max_minutes" : "max_steps";
    const said = wrong[`parameters/${name}`];
    return html`<div class="field"><label class="sr-only" for="budget-number">${minutes ? "Minutes" : "Steps"}</label>
      <input id="budget-number" type="number" min=${minutes ? 0.1 : 1} step=${minutes ? "any" : 1} aria-invalid=${Boolean(said)}
        .value=${live(minutes ? this.minutes : this.steps)} @input=${(event) => this.edit({ [this.budget]: event.target.value })}>
      ${said ? html`<small class="wrong">${said}</small>` : nothing}</div>`;
  }
}

function families(presets) {
  const found = new Map();
  for (const one of presets) found.set(one.family, [...(found.get(one.family) ?? []), one]);
  return [...found];
}

function differing({ name, parameters }) {
  const own = Object.entries(parameters);
  if (!own.length) return nothing;
  return html`<div class="sunken stack small"><p>Defaults of ${name}:</p>${facts(own.map(([key, value]) => [key.replaceAll("_", " "), String(value)]))}</div>`;
}
