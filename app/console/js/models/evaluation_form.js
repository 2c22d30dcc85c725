// A new evaluation: which images are normal, and what they are to be told from.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { get } from "../service.js";
import { DatasetForm, described, refusal } from "./dataset_form.js";

const IMAGES = 2000;

export class EvaluationForm {
  constructor(subject, redraw, made) {
    [this.subject, this.redraw, this.made] = [subject, redraw, made];
    this.datasets = new DatasetForm(redraw);
    this.normal = subject.detail.calibration.dataset;
    this.submitted = this.refused = null;
    this.busy = false;
  }

  start() {
    return this.datasets.load();
  }

  async submit(event) {
    event.preventDefault();
    const given = new FormData(event.target);
    const parameters = {
      against: given.getAll("against"), corruptions: given.has("corruptions"), adapt: given.has("adapt"), thorough: given.has("thorough"),
      images: Number(given.get("images")),
    };
    [this.busy, this.refused] = [true, null];
    this.redraw();
    try {
      const json = { type: "evaluate", model: this.subject.exact, dataset: given.get("normal"), parameters };
      this.submitted = await get("/v1/jobs", { method: "POST", json });
      this.made(this.submitted.id);
    } catch (error) {
      this.refused = error;
    }
    this.busy = false;
    this.redraw();
  }

  view() {
    const takes = this.subject.entry.image_shape;
    const choose = (name) => { this.normal = name; this.redraw(); };
    const none = this.datasets.missing();
    // The choice shows its first where the calibration's dataset is not here any more.
    const sorted = this.datasets.sorted(takes);
    const normal = sorted.some((one) => one.name === this.normal) ? this.normal : sorted[0]?.name;
    return html`<section class="card"><h2>Evaluate version ${this.subject.version}</h2>
      <form class="stack" @submit=${(event) => this.submit(event)}>
        <div class="columns">
          <div class="stack">${this.datasets.choice("normal", "Normal images", takes, normal, choose)}
            <p class="small faint">Images that shall not be flagged, which neither training nor calibration has seen: of a built-in dataset its test part, else a dataset of their own.</p>
            <div class="field"><label for="images">Most images of a set</label><input id="images" name="images" type="number" min="40" max="100000" .defaultValue=${String(IMAGES)} required></div></div>
          <fieldset><legend>Told from</legend><div class="stack">
            <div class="stack choices">${none ?? repeat(sorted.filter((one) => one.name !== normal), (one) => one.name, (one) => html`<label class="check"><input type="checkbox" name="against" value=${one.name}> <span class="break">${described(one, takes)}</span></label>`)}</div>
            <label class="check"><input type="checkbox" name="corruptions"> normal images with graded faults</label></div></fieldset>
          <fieldset><legend>Also</legend><div class="stack">
            <label class="check"><input type="checkbox" name="adapt"> convert other sizes and colours</label>
            <label class="check"><input type="checkbox" name="thorough"> gradients of the weights: several times the work</label></div></fieldset>
        </div>
        ${refusal(this.refused)}
        <div class="row" role="status"><button class="primary" ?disabled=${this.busy || !this.datasets.any}>Evaluate</button>
          ${this.submitted ? html`<span>Queued: <a href="#/train/${this.submitted.id}">follow the job</a></span>` : nothing}</div>
      </form></section>`;
  }
}
