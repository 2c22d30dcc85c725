// A calibration beside the one in use: what each can flag, and which verdicts would change.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, count, fixed, whole } from "../format.js";
import { failure, waiting } from "../parts.js";
import { get } from "../service.js";

const ROWS = [
  ["dataset", ({ dataset }) => dataset],
  ["calibration images", (side) => whole(side.calibration_images)],
  ["precision", ({ precision }) => precision],
  ["smallest alpha", (side) => brief(side.smallest_p, 3)],
  ["can flag at", ({ attainable_alphas: alphas }) => (alphas.length ? alphas.map((alpha) => `${100 * alpha} %`).join(", ") : "none of 0.1 to 10 %")],
  ["default false-alarm rate", (side) => `${brief(100 * side.default_alpha, 3)} %`],
  ["flagged there from T (nats)", ({ threshold }) => fixed(threshold, 4)],
];
// Names and lists may wrap anywhere, single numbers not.
const wrap = (label) => (["dataset", "can flag at"].includes(label) ? "break" : "nobreak");

export class Comparison {
  /** `activate` is called with the number of the calibration. */
  constructor(subject, redraw, activate) {
    Object.assign(this, { subject, redraw, activate, number: null, answer: null, error: null });
  }

  async open(number) {
    Object.assign(this, { number, answer: null, error: null });
    this.redraw();
    try {
      const answer = await get(this.subject.path(`/calibrations/${number}/comparison`));
      if (this.number === number) this.answer = answer;
    } catch (error) {
      if (this.number === number) this.error = error;
    }
    this.redraw();
  }

  close() {
    this.number = null;
    this.redraw();
  }

  view() {
    if (this.number === null) return nothing;
    const { number, answer, error } = this;
    return html`<section class="card" aria-labelledby="comparison-title"><h2 id="comparison-title">If calibration ${number} is activated</h2>
      ${error ? failure(error, () => this.open(number)) : answer ? this.sides() : waiting("Comparing ...")}
      <div class="row"><button class="primary" ?disabled=${!answer && !error} @click=${() => this.activate(number)}>Activate calibration ${number}</button>
        <button @click=${() => this.close()}>Cancel</button></div></section>`;
  }

  sides() {
    const { before, after, verdicts } = this.answer;
    const rows = ROWS.map(([label, show]) => [label, show(before), show(after)]);
    if (verdicts.images) rows.push([`anomalies of ${count(verdicts.images, "image")}`, whole(verdicts.anomalies_before), whole(verdicts.anomalies_after)]);
    return html`<div class="scroll"><table class="comparison"><thead><tr><th scope="col"><span class="sr-only">property</span></th><th scope="col">in use: ${before.number}</th><th scope="col">after: ${after.number}</th></tr></thead>
        <tbody>${rows.map(([label, old, now]) => html`<tr><th scope="row">${label}</th><td class=${wrap(label)}>${old}</td><td class=${wrap(label)}>${old === now ? now : html`<strong>${now}</strong>`}</td></tr>`)}</tbody></table></div>
      ${verdicts.images ? html`<p>${count(verdicts.to_anomaly, "image")} would become anomalous, ${count(verdicts.to_normal, "image")} normal.</p>` : nothing}
      ${verdicts.refused_after ? html`<p class="notice warn">${count(verdicts.refused_after, "image")} came with a false-alarm rate that would be refused.</p>` : nothing}
      <p class="small faint">Verdicts: ${verdicts.note}.</p>`;
  }
}
