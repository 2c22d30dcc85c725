// The course of a training: what it was when the page came, and what events add to it.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed } from "../format.js";
import "../charts.js";

const MOST = 2000;

/** Points whose steps rise strictly, also where an attempt did some of them anew. */
class Course {
  constructor() {
    this.points = [];
    this.newest = { attempt: 0, step: -1 };
  }

  /** Adds a report; one that is known is passed by: events begin with the first there was. */
  add(point) {
    const { newest } = this;
    if (point.attempt < newest.attempt || (point.attempt === newest.attempt && point.step <= newest.step)) return;
    this.newest = { attempt: point.attempt, step: point.step };
    while (this.points.length && this.points.at(-1).step >= point.step) this.points.pop();
    this.points.push(point);
    // Twice as many as a screen has pixels: every second one is enough.
    if (this.points.length > MOST) this.points = this.points.filter((_, index) => index % 2 === 0 || index === this.points.length - 1);
  }

  line(value) {
    const known = this.points.filter((one) => value(one) != null);
    return { x: known.map((one) => one.step), y: known.map(value) };
  }
}

const positive = (value) => (value > 0 ? value : null); // others have no logarithm
const largest = (errors) => (errors ? positive(Math.max(...Object.values(errors))) : null);

export class Curve {
  constructor() {
    [this.training, this.validation] = [new Course(), new Course()];
  }

  /** What the service keeps. */
  begin({ points, validations }) {
    for (const one of points) this.training.add(one);
    for (const one of validations) this.validation.add(one);
  }

  get empty() {
    return !this.training.points.length && !this.validation.points.length;
  }

  view() {
    if (this.empty) return html`<p class="empty">The curves begin with the first step.</p>`;
    const bits = [
      { label: "training", colour: "--accent", ...this.training.line((one) => one.bits_per_dim) },
      { label: "validation", colour: "--bad", points: true, ...this.validation.line((one) => one.bits_per_dim) },
    ];
    const last = this.validation.points.at(-1);
    return html`<div class="columns">
      <section class="stack"><h3>Bits per dimension</h3>
        <snf-lines aria-label="Bits per dimension over steps: training ${said(bits[0])}, validation ${said(bits[1])}" .x=${"step"} .y=${"bits/dim"} .series=${bits}></snf-lines></section>
      ${this.inverses(last)}
    </div>
    ${last?.inverse_errors ? layers(last) : nothing}`;
  }

  // A flow with exact layers alone has no learned inverse, and no error of one.
  inverses(last) {
    const error = this.training.line((one) => positive(one.reconstruction_error));
    if (!error.x.length && !last?.inverse_errors) return nothing;
    const lines = [
      { label: "training", colour: "--accent", ...error },
      { label: "largest of a layer", colour: "--bad", points: true, ...this.validation.line((one) => largest(one.inverse_errors)) },
      { label: "its bound", colour: "--warn", points: true, ...this.validation.line((one) => largest(one.inverse_error_bounds)) },
    ].filter(({ x }) => x.length);
    return html`<section class="stack"><h3>Reconstruction error of the learned inverses</h3>
      <snf-lines aria-label="Reconstruction error over steps: ${said(lines[0])}" .log=${true} .x=${"step"} .y=${"error"} .series=${lines}></snf-lines></section>`;
  }
}

function said({ y }) {
  return y.length ? `${brief(y[0], 4)} at first, ${brief(y.at(-1), 4)} now` : "none yet";
}

function layers({ step, inverse_errors: errors, inverse_error_bounds: bounds, multipliers = [] }) {
  return html`<details><summary>Learned inverses at step ${step}, layer by layer</summary><div class="scroll" tabindex="0" role="region" aria-label="Learned inverses"><table>
    <thead><tr><th>layer</th><th class="num">error</th><th class="num">bound on the distance from the exact inverse</th><th class="num">multiplier</th></tr></thead>
    <tbody>${Object.entries(errors).map(([name, error], index) => html`<tr><th class="mono" scope="row">${name}</th><td class="num">${brief(error)}</td>
      <td class="num">${brief(bounds?.[name])}</td><td class="num">${multipliers[index] == null ? "–" : fixed(multipliers[index], 1)}</td></tr>`)}</tbody></table></div></details>`;
}
