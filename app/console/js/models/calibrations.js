// What verdicts are ranks among: the calibrations of a version, the one in use, and how to make another.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { brief, moment, shape, whole } from "../format.js";
import { failure, notice, waiting } from "../parts.js";
import { get } from "../service.js";
import { complain } from "../toast.js";
import { DatasetForm, refusal } from "./dataset_form.js";
import "../charts.js";

const MARKS = [0.05, 0.01, 0.001];

export class Calibrations {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.found = this.error = this.reference = this.referenceError = null;
    this.marks = [];
    this.busy = false;
    this.turns = 0;
    this.form = new DatasetForm(redraw);
    this.submitted = this.refused = null;
  }

  start() {
    this.form.load();
  }

  back() {
    this.form.load();
  }

  async refresh() {
    const turn = (this.turns += 1);
    try {
      const found = await get(this.subject.path("/calibrations"));
      if (turn === this.turns) this.take(found);
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  /** The histogram is asked for once a calibration. */
  take(found) {
    [this.found, this.error] = [found, null];
    if (this.reference?.calibration !== found.active) this.refer(found.active);
  }

  async refer(active) {
    try {
      const reference = await get(this.subject.path("/reference"));
      // Scores go over to another calibration within a second or two: then it is asked for again.
      if (reference.calibration !== active) return;
      this.reference = reference;
      this.marks = reference.quantiles.filter((one) => MARKS.includes(one.alpha))
        .map(({ alpha, statistic }) => ({ x: statistic, label: `${100 * alpha} %`, colour: "--accent", dashed: true }));
      this.referenceError = null;
    } catch (error) {
      [this.reference, this.referenceError] = [null, error];
    }
    this.redraw();
  }

  async use(calibration) {
    try {
      const found = await get(this.subject.path("/calibrations/active"), { method: "PUT", json: { calibration } });
      this.turns += 1; // what was asked for before does not know of it
      this.take(found);
    } catch (error) {
      complain(error);
    }
    this.redraw();
  }

  async make(event) {
    event.preventDefault();
    const { target } = event;
    const given = new FormData(target);
    [this.busy, this.refused] = [true, null];
    this.redraw();
    try {
      const json = { dataset: given.get("dataset"), precision: given.get("precision"), activate: given.has("activate") };
      this.submitted = await get(this.subject.path("/calibrations"), { method: "POST", json });
    } catch (error) {
      this.refused = error;
    }
    this.busy = false;
    this.redraw();
  }

  view() {
    if (!this.found) return this.error ? failure(this.error, () => this.refresh()) : waiting();
    const active = this.found.calibrations.find((one) => one.active);
    return html`${this.error ? failure(this.error, () => this.refresh()) : nothing}
      <section class="card"><h2>Calibrations</h2>
        <p class="faint">A p-value is the rank of an image among calibration images. They are numbered and never change; 0 is the one that the model came with.</p>
        ${this.table()}</section>
      <div class="columns wide-first">
        <section class="card"><h2>Evidence of the ${this.reference ? whole(this.reference.count) : ""} calibration images in use</h2>${this.histogram()}</section>
        <section class="card"><h2>Thresholds that keep a false-alarm rate</h2>${advice(active)}</section>
      </div>
      <section class="card"><h2>Calibrate on other images</h2>${this.maker()}</section>`;
  }

  table() {
    const line = (one) => html`<tr class=${one.active ? "here" : ""}>
      <th scope="row">${one.number} ${one.active ? html`<span class="badge accent">in use</span>` : nothing}</th>
      ${one.problem ? html`<td colspan="6"><span class="badge bad">cannot be used</span> <span class="small break">${one.problem}</span></td>` : html`
        <td class="break" data-label="dataset">${one.dataset}</td>
        <td class="num" data-label="images">${whole(one.calibration_images)}${one.folds > 1 ? html` <span class="small faint">in ${one.folds} folds</span>` : nothing}</td>
        <td class="num" data-label="statistics">${whole(one.statistics_images)}</td>
        <td data-label="precision">${one.precision}${one.deviation ? html`<br><span class="small faint">median ${brief(one.deviation.median, 2)}, worst ${brief(one.deviation.worst, 2)} nats from float32</span>` : nothing}</td>
        <td class="num" data-label="smallest p">${brief(one.smallest_p, 2)}</td>
        <td class="small" data-label="created">${moment(one.created)}${one.job ? html` <a href="#/train/${one.job}">its job</a>` : nothing}</td>`}
      <td>${one.active || one.problem ? nothing : html`<button aria-label="Use calibration ${one.number}" @click=${() => this.use(one.number)}>Use this one</button>`}</td></tr>`;
    return html`<div class="scroll"><table class="rows calibrations">
      <thead><tr><th>number</th><th>dataset</th><th class="num">images for ranks</th><th class="num">for statistics</th><th>precision</th><th class="num">smallest p-value</th><th>created</th><th><span class="sr-only">actions</span></th></tr></thead>
      <tbody>${repeat(this.found.calibrations, (one) => one.number, line)}</tbody></table></div>`;
  }

  histogram() {
    if (this.referenceError) return notice(this.referenceError.message, "warn");
    if (!this.reference) return waiting();
    const { quantiles, count } = this.reference;
    const said = quantiles.map(({ alpha, statistic }) => `${100 * alpha} % from ${brief(statistic)} nats`).join(", ");
    return html`<snf-histogram aria-label="Histogram of the evidence of ${count} calibration images; flagged at a false-alarm rate of ${said}"
      .x=${"evidence T, nats: further right is stranger"} .found=${this.reference} .marks=${this.marks}></snf-histogram>
      <p class="small faint">Images right of a line are flagged at that false-alarm rate.</p>`;
  }

  maker() {
    const { image_shape: takes } = this.subject.entry;
    return html`<form class="stack" @submit=${(event) => this.make(event)}>
      <p class="faint">Another camera, another lot: the same weights, ranks among your own good images. The model takes ${shape(takes)}; at least 20 images.</p>
      <div class="columns three">
        ${this.form.choice("dataset", "Dataset", takes)}
        <div class="field"><label for="precision">Precision of scores</label><select id="precision" name="precision"><option>float32</option><option>bfloat16</option></select>
          <small>bfloat16 is faster where the CPU has it; how far scores are from float32 is measured.</small></div>
        <div class="field"><span class="label">When it is done</span><label class="check"><input type="checkbox" name="activate" checked> use it at once</label></div>
      </div>
      ${refusal(this.refused)}
      <div class="row" role="status"><button class="primary" ?disabled=${this.busy || !this.form.any}>Calibrate</button>
        ${this.submitted ? html`<span>Queued: <a href="#/train/${this.submitted.id}">follow the job</a></span>` : nothing}</div></form>`;
  }
}

function advice(active) {
  if (!active?.thresholds.length) return html`<p class="faint">Not known for this calibration: with several folds, or where suspect images were left out, there is no such bound.</p>`;
  return html`<p class="faint small">With p at most the threshold the rate is kept with 95 % confidence, for images like the calibration images.</p>
    <table><thead><tr><th>false-alarm rate</th><th class="num">threshold</th></tr></thead><tbody>${active.thresholds.map((one) => html`<tr><td>${100 * one.alpha} %</td>
      <td class="num">${one.threshold === null ? html`<span class="small faint">takes ${whole(one.images_needed)} images</span>` : html`p ≤ ${brief(one.threshold, 3)}`}</td></tr>`)}</tbody></table>`;
}
