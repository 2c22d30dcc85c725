// Training curves: the stored curve, extended by live events.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed } from "../format.js";
import "./clipped_lines.js";

const MAX_POINTS = 2000;

/** Points with strictly increasing steps. A new attempt replaces the points of the steps that it repeats. */
class Series {
  constructor() {
    this.points = [];
    this.newest = { attempt: 0, step: -1 };
  }

  /** Adds a point. Known points are skipped, because the event stream starts at the first event. */
  add(point) {
    const { newest } = this;
    if (point.attempt < newest.attempt || (point.attempt === newest.attempt && point.step <= newest.step)) return;
    this.newest = { attempt: point.attempt, step: point.step };
    while (this.points.length && this.points.at(-1).step >= point.step) this.points.pop();
    this.points.push(point);
    // Above the limit every second point is dropped.
    if (this.points.length > MAX_POINTS) this.points = this.points.filter((_, index) => index % 2 === 0 || index === this.points.length - 1);
  }

  line(value) {
    const known = this.points.filter((point) => value(point) != null);
    return { x: known.map((point) => point.step), y: known.map(value) };
  }
}

const positive = (value) => (value > 0 ? value : null); // the axis is logarithmic
const largest = (errors) => (errors ? positive(Math.max(...Object.values(errors))) : null);

export class Curve {
  constructor() {
    [this.training, this.validation] = [new Series(), new Series()];
  }

  /** Adds the stored curve. */
  begin({ points, validations }) {
    for (const point of points) this.training.add(point);
    for (const point of validations) this.validation.add(point);
  }

  get empty() {
    return !this.training.points.length && !this.validation.points.length;
  }

  /** Whether there is progress without bits per dimension: the model is fitted in closed form. */
  get closedForm() {
    return this.training.points.length > 0 && !this.validation.points.length && this.training.points.every((point) => point.bits_per_dim == null && point.learning_rate == null);
  }

  view(finished) {
    if (this.empty) return html`<p class="empty">${finished ? "No training step was completed." : "The curves appear after the first step."}</p>`;
    const bits = [
      { label: "training", colour: "--accent", ...this.training.line((point) => point.bits_per_dim) },
      { label: "validation", colour: "--bad", points: true, ...this.validation.line((point) => point.bits_per_dim) },
    ];
    const last = this.validation.points.at(-1);
    return html`<div class="columns">
      <section class="stack"><h3>Bits per dimension</h3>
        <snf-clipped-lines .label=${`Bits per dimension over steps: training ${summary(bits[0])}, validation ${summary(bits[1])}`} .x=${"step"} .y=${"bits/dim"} .series=${bits}></snf-clipped-lines></section>
      ${this.inverses(last)}
    </div>
    ${last?.inverse_errors ? layers(last) : nothing}`;
  }

  // A flow with exact inverses only has no reconstruction error.
  inverses(last) {
    const error = this.training.line((point) => positive(point.reconstruction_error));
    if (!error.x.length && !last?.inverse_errors) return nothing;
    const lines = [
      { label: "training", colour: "--accent", ...error },
      { label: "maximum over layers", colour: "--bad", points: true, ...this.validation.line((point) => largest(point.inverse_errors)) },
      { label: "bound", colour: "--warn", points: true, ...this.validation.line((point) => largest(point.inverse_error_bounds)) },
    ].filter(({ x }) => x.length);
    return html`<section class="stack"><h3>Reconstruction error of the learned inverses</h3>
      <snf-clipped-lines .label=${`Reconstruction error over steps: ${summary(lines[0])}`} .log=${true} .x=${"step"} .y=${"error"} .series=${lines}></snf-clipped-lines></section>`;
  }
}

function summary({ y }) {
  return y.length ? `${brief(y[0], 4)} at first, ${brief(y.at(-1), 4)} now` : "none yet";
}

function layers({ step, inverse_errors: errors, inverse_error_bounds: bounds, multipliers = [] }) {
  return html`<details><summary>Learned inverses at step ${step}, layer by layer</summary><div class="scroll" tabindex="0" role="region" aria-label="Learned inverses"><table>
    <thead><tr><th>layer</th><th class="num">error</th><th class="num">bound on the distance from the exact inverse</th><th class="num">multiplier</th></tr></thead>
    <tbody>${Object.entries(errors).map(([name, error], index) => html`<tr><th class="mono" scope="row">${name}</th><td class="num">${brief(error)}</td>
      <td class="num">${brief(bounds?.[name])}</td><td class="num">${multipliers[index] == null ? "–" : fixed(multipliers[index], 1)}</td></tr>`)}</tbody></table></div></details>`;
}
