// The Calibrations tab: lists the calibrations of a version, compares and activates one, and creates new ones.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { accepted, brief, moment, whole } from "../format.js";
import { failure, notice, waiting } from "../parts.js";
import { get } from "../service.js";
import { complain } from "../toast.js";
import { Comparison } from "./comparison.js";
import { DatasetForm, refusal, submit } from "./dataset_form.js";
import "../charts.js";

const MARKS = [0.05, 0.01, 0.001];
const WHEN_FINISHED = [["", "activate unless coarser"], ["true", "activate in any case"], ["false", "keep the one in use"]];

export class Calibrations {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.calibrations = this.error = this.reference = this.referenceError = null;
    this.marks = [];
    this.busy = false;
    this.requests = 0;
    this.form = new DatasetForm(redraw, () => ({ type: "calibrate", model: subject.exact }));
    this.dataset = "";
    this.comparison = new Comparison(subject, redraw, (number) => this.use(number));
    this.submitted = this.refused = null;
  }

  start() {
    this.form.load();
  }

  back() {
    this.form.load();
  }

  async refresh() {
    const request = (this.requests += 1);
    try {
      const answer = await get(this.subject.path("/calibrations"));
      if (request === this.requests) this.update(answer);
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  /** Stores the list; loads the histogram if another calibration is active. */
  update({ calibrations, active }) {
    [this.calibrations, this.error] = [calibrations, null];
    if (this.reference?.calibration !== active) this.loadReference(active);
  }

  async loadReference(active) {
    try {
      const reference = await get(this.subject.path("/reference"));
      // Scoring switches to another calibration after a second or two; the next refresh loads it.
      if (reference.calibration !== active) return;
      this.reference = reference;
      this.marks = reference.quantiles.filter(({ alpha }) => MARKS.includes(alpha))
        .map(({ alpha, statistic }) => ({ x: statistic, label: `${100 * alpha} %`, colour: "--accent", dashed: true }));
      this.referenceError = null;
    } catch (error) {
      [this.reference, this.referenceError] = [null, error];
    }
    this.redraw();
  }

  async use(calibration) {
    try {
      const answer = await get(this.subject.path("/calibrations/active"), { method: "PUT", json: { calibration } });
      this.requests += 1; // discards pending answers, which are older than this change
      this.update(answer);
      this.comparison.close();
    } catch (error) {
      complain(error);
    }
    this.redraw();
  }

  async submit(event) {
    event.preventDefault();
    const fields = new FormData(event.target);
    [this.busy, this.refused] = [true, null];
    this.redraw();
    try {
      const json = { dataset: fields.get("dataset"), precision: fields.get("precision"), activate: JSON.parse(fields.get("activate") || "null") };
      this.submitted = await get(this.subject.path("/calibrations"), { method: "POST", json });
    } catch (error) {
      this.refused = error;
    }
    this.busy = false;
    this.redraw();
  }

  view() {
    if (!this.calibrations) return this.error ? failure(this.error, () => this.refresh()) : waiting();
    const active = this.calibrations.find((entry) => entry.active);
    return html`${this.error ? failure(this.error, () => this.refresh()) : nothing}
      <section class="card"><h2>Calibrations</h2>
        <p class="faint">A p-value is the rank of an image among the calibration images. Calibrations never change; number 0 comes with the model.</p>
        ${this.table()}</section>
      ${this.comparison.view()}
      <div class="columns wide-first">
        <section class="card"><h2>Statistic T of ${this.reference ? whole(this.reference.count) : "the"} calibration images</h2>${this.histogram()}</section>
        <section class="card"><h2>Guaranteed thresholds</h2>${thresholds(active)}</section>
      </div>
      <section class="card"><h2>Calibrate on other images</h2>${this.newCalibration()}</section>`;
  }

  table() {
    const line = (entry) => html`<tr class=${entry.active ? "here" : ""}>
      <th scope="row">${entry.number} ${entry.active ? html`<span class="badge accent">in use</span>` : nothing}</th>
      ${entry.problem ? html`<td colspan="6"><span class="badge bad">cannot be used</span> <span class="small break">${entry.problem}</span></td>` : html`
        <td class="break" data-label="dataset">${entry.dataset}</td>
        <td class="num" data-label="images">${whole(entry.calibration_images)}${entry.folds > 1 ? html` <span class="small faint">in ${entry.folds} folds${entry.copies ? "," : ""}</span>` : nothing}${entry.copies ? html` <span class="small faint">${whole(entry.copies)} more are copies</span>` : nothing}</td>
        <td class="num" data-label="reference">${whole(entry.statistics_images)}</td>
        <td data-label="precision">${entry.precision}${entry.deviation ? html`<br><span class="small faint">differs from float32 by ${brief(entry.deviation.median, 2)} (median), ${brief(entry.deviation.worst, 2)} (maximum) nats</span>` : nothing}</td>
        <td class="num" data-label="smallest alpha">${brief(entry.smallest_p, 2)}</td>
        <td class="small" data-label="created">${moment(entry.created)}${entry.job ? html` <a href="#/train/${entry.job}">job</a>` : nothing}</td>`}
      <td>${entry.active || entry.problem ? nothing : html`<button aria-label="Compare calibration ${entry.number}" @click=${() => this.comparison.open(entry.number)}>Compare</button>`}</td></tr>
      ${entry.reason ? html`<tr class="remark"><td colspan="8" class="small break">${entry.number}, when it was made: ${entry.reason}</td></tr>` : nothing}
      ${entry.warning ? html`<tr class="remark"><td colspan="8" class="small break">${entry.number}, ${entry.warning}</td></tr>` : nothing}`;
    return html`<div class="scroll"><table class="rows calibrations">
      <thead><tr><th>number</th><th>dataset</th><th class="num">calibration images</th><th class="num">reference images</th><th>precision</th><th class="num">smallest alpha</th><th>created</th><th><span class="sr-only">actions</span></th></tr></thead>
      <tbody>${repeat(this.calibrations, (entry) => entry.number, line)}</tbody></table></div>`;
  }

  histogram() {
    if (this.referenceError) return notice(this.referenceError.message, "warn");
    if (!this.reference) return waiting();
    const { quantiles, count } = this.reference;
    const limits = quantiles.map(({ alpha, statistic }) => `${100 * alpha} % from ${brief(statistic)} nats`).join(", ");
    return html`<snf-histogram aria-label="Histogram of statistic T of ${count} calibration images; thresholds by false-alarm rate: ${limits}"
      .x=${"statistic T, nats (high: anomalous)"} .histogram=${this.reference} .marks=${this.marks}></snf-histogram>
      <p class="small faint">Images to the right of a line are flagged at that false-alarm rate.</p>`;
  }

  newCalibration() {
    const hasFeatures = ["features", "hybrid"].includes(this.subject.detail.manifest.architecture.family);
    return html`<form class="stack" @submit=${(event) => this.submit(event)}>
      <p class="faint">Calibrate the model for another camera or lot; its weights stay the same. Use at least 20 normal images (${accepted(this.subject.entry)}).</p>
      <div class="columns three">
        ${this.form.choice("dataset", "Dataset", this.dataset, (name) => { this.dataset = name; this.redraw(); })}
        <div class="field"><label for="precision">Scoring precision</label><select id="precision" name="precision"><option>float32</option>${hasFeatures ? nothing : html`<option>bfloat16</option>`}</select>
          <small>${hasFeatures ? "Models with features have float32 alone." : "bfloat16 is faster on CPUs that support it. The job measures the difference from float32."}</small></div>
        <div class="field"><label for="activate">When finished</label><select id="activate" name="activate">${WHEN_FINISHED.map(([value, label]) => html`<option value=${value}>${label}</option>`)}</select>
          <small>Coarser: its smallest alpha is larger than that of the one in use. Smaller false-alarm rates are not attainable and are refused.</small></div>
      </div>
      ${refusal(this.refused)}
      ${submit("Calibrate", this.form.missing(this.dataset), this.busy, this.submitted)}</form>`;
  }
}

function thresholds(active) {
  if (!active?.thresholds.length) return html`<p class="faint">Not available for this calibration. There is no bound with several folds or when suspect images were left out.</p>`;
  return html`<p class="faint small">Flag images with p at or below the threshold to keep the rate with 95 % confidence, for images like the calibration images.</p>
    <table><thead><tr><th>false-alarm rate</th><th class="num">threshold</th></tr></thead><tbody>${active.thresholds.map((entry) => html`<tr><td>${100 * entry.alpha} %</td>
      <td class="num">${entry.threshold === null ? html`<span class="small faint">needs ${whole(entry.images_needed)} images</span>` : html`p ≤ ${brief(entry.threshold, 3)}`}</td></tr>`)}</tbody></table>`;
}
