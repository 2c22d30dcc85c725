// The form of a new evaluation: normal images, anomalous images and options.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { get } from "../service.js";
import { DatasetForm, described, refusal, submit } from "./dataset_form.js";

const IMAGES = 2000;
const asAnomalies = (dataset) => dataset.problem_as_anomalies;

export class EvaluationForm {
  constructor(subject, redraw, onQueued) {
    [this.subject, this.redraw, this.onQueued] = [subject, redraw, onQueued];
    this.adapt = false;
    // With corruptions, as without anomalous images no evaluation is valid.
    this.datasets = new DatasetForm(redraw, () => ({ type: "evaluate", model: subject.exact, parameters: { corruptions: true, adapt: this.adapt } }));
    this.chosen = null;
    this.against = new Set();
    this.masks = new Map(); // anomalous dataset -> dataset of its masks
    this.corruptions = false;
    this.submitted = this.refused = null;
    this.busy = false;
  }

  start() {
    return this.datasets.load();
  }

  async submit(event) {
    event.preventDefault();
    const fields = new FormData(event.target);
    const against = fields.getAll("against");
    const masks = Object.fromEntries(against.map((name) => [name, fields.get(`masks-${name}`)]).filter(([, name]) => name));
    const parameters = {
      against, masks, corruptions: fields.has("corruptions"), adapt: fields.has("adapt"),
      images: Number(fields.get("images")),
    };
    [this.busy, this.refused] = [true, null];
    this.redraw();
    try {
      const json = { type: "evaluate", model: this.subject.exact, dataset: fields.get("normal"), parameters };
      this.submitted = await get("/v1/jobs", { method: "POST", json });
      this.onQueued(this.submitted.id);
    } catch (error) {
      this.refused = error;
    }
    this.busy = false;
    this.redraw();
  }

  /** Renders the choice of the dataset with the masks of some anomalous images. */
  maskChoice(name) {
    const others = this.datasets.sorted(asAnomalies).filter((dataset) => dataset.name !== name);
    const chosen = this.masks.get(name) ?? "";
    const choose = (event) => { this.masks.set(name, event.target.value); this.redraw(); };
    if (!others.length) return nothing;
    return html`<div class="field"><label for="masks-${name}">Masks of the defects of ${name}</label><select id="masks-${name}" name="masks-${name}" @change=${choose}>
      <option value="" .selected=${live(chosen === "")}>none</option>${others.map((dataset) => html`<option .selected=${live(dataset.name === chosen)}>${dataset.name}</option>`)}</select></div>`;
  }

  /** Whether a dataset is chosen as anomalous images and can be taken. */
  isChosen(dataset) {
    return this.against.has(dataset.name) && !asAnomalies(dataset);
  }

  /** Returns why there is nothing to tell the normal images from; null if something is chosen. */
  withoutAnomalies(anomalies) {
    return this.corruptions || anomalies.some((dataset) => this.isChosen(dataset)) ? null : "Choose anomalous images, or graded corruptions.";
  }

  view() {
    const choose = (name) => { this.chosen = name; this.redraw(); };
    const unavailable = this.datasets.unavailable();
    const normal = this.chosen ?? this.datasets.suggested ?? "";
    const anomalies = this.datasets.sorted(asAnomalies).filter(({ name }) => name !== normal);
    const choice = (name) => (event) => { this.against[event.target.checked ? "add" : "delete"](name); this.redraw(); };
    const convert = (event) => { this.adapt = event.target.checked; this.datasets.load(); };
    return html`<section class="card"><h2>Evaluate version ${this.subject.version}</h2>
      <form class="stack" @submit=${(event) => this.submit(event)}>
        <div class="columns">
          <div class="stack">${this.datasets.choice("normal", "Normal images", normal, choose)}
            <p class="small faint">Images that should not be flagged. Choose a dataset that training and calibration have not used; of a built-in dataset only the test part is used.</p>
            <div class="field"><label for="images">Maximum images per set</label><input id="images" name="images" type="number" min="40" max="100000" .defaultValue=${String(IMAGES)} required></div></div>
          <fieldset><legend>Anomalous images</legend><div class="stack">
            <div class="stack choices">${unavailable ?? repeat(anomalies, ({ name }) => name, (dataset) => html`<label class="check"><input type="checkbox" name="against" value=${dataset.name} ?disabled=${Boolean(asAnomalies(dataset))} .checked=${live(this.isChosen(dataset))} @change=${choice(dataset.name)}> <span class="break">${described(dataset, asAnomalies(dataset))}</span></label>`)}</div>
            ${anomalies.filter((dataset) => this.isChosen(dataset)).map(({ name }) => this.maskChoice(name))}
            <label class="check"><input type="checkbox" name="corruptions" .checked=${live(this.corruptions)} @change=${(event) => { this.corruptions = event.target.checked; this.redraw(); }}> normal images with graded corruptions</label></div></fieldset>
          <fieldset><legend>Options</legend><div class="stack">
            <label class="check"><input type="checkbox" name="adapt" .checked=${live(this.adapt)} @change=${convert}> convert size and colour</label></div></fieldset>
        </div>
        ${refusal(this.refused)}
        ${submit("Evaluate", this.datasets.missing(normal, "normal images") ?? this.withoutAnomalies(anomalies), this.busy, this.submitted)}
      </form></section>`;
  }
}
