// The Audit tab: compares scores that use cached log-determinants with scores that recompute every log-determinant.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { count, fixed } from "../format.js";
import { notice, segments } from "../parts.js";
import { get } from "../service.js";

const COUNTS = [1, 4, 16].map((n) => [n, String(n)]);

export class Audit {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.n = 4;
    this.result = this.error = null;
    this.busy = false;
  }

  async run() {
    [this.busy, this.error] = [true, null];
    this.redraw();
    try {
      this.result = await get(this.subject.path("/audit"), { query: { n: this.n }, patient: true });
    } catch (error) {
      [this.result, this.error] = [null, error];
    }
    this.busy = false;
    this.redraw();
  }

  view() {
    const choose = (n) => { this.n = n; this.redraw(); };
    return html`<section class="card"><h2>Audit</h2>
      <p class="faint">Scores use log-determinants that are stored with the weights. An audit scores images again in float64 and recomputes
        the log-determinant of every layer. Both log-likelihoods must agree.</p>
      <div class="row bottom">${segments("audit-n", "Images", COUNTS, this.n, choose)}
        <button class="primary" ?disabled=${this.busy} @click=${() => this.run()}>${this.busy ? "Computing ..." : this.result ? "Audit again" : "Audit"}</button></div>
      <div role="status">${this.busy ? html`<progress aria-label="Audit"></progress>` : this.error ? notice(this.error.message, "bad") : this.result ? verdict(this.result) : nothing}</div>
    </section>
    ${this.result ? html`${images(this.result)}${layers(this.result)}` : nothing}`;
  }
}

// Formats a difference in nats, such as 3e-7.
function nats(value) {
  return value === 0 ? "0" : value.toExponential(1).replace(".0e", "e");
}

function verdict({ images: scored, engine, precision, seconds, tolerance, agrees }) {
  const largest = Math.max(...scored.map((image) => Math.abs(image.difference)));
  const method = `${engine}, ${precision}, in ${fixed(seconds, 1)} s`;
  return agrees
    ? html`<p class="notice good"><strong>Agrees within ${nats(largest)} nats</strong>, tolerance ${nats(tolerance)}. <span class="faint">${method}</span></p>`
    : html`<p class="notice bad"><strong>Does not agree: difference of ${nats(largest)} nats</strong>, tolerance ${nats(tolerance)}. <span class="faint">${method}</span></p>`;
}

function images({ images: scored, engine, precision }) {
  return html`<section class="card"><h2>Log-likelihoods</h2>
    <div class="scroll"><table class="rows"><thead><tr><th>image</th><th class="num">${engine}, ${precision}, cached (nats)</th><th class="num">recomputed in float64 (nats)</th><th class="num">difference</th></tr></thead>
      <tbody>${scored.map((image) => html`<tr><th scope="row">${image.index + 1} <span class="faint small">${image.source === "pinned" ? "stored with the model" : "sample of the model"}</span></th>
        <td class="num" data-label="cached">${fixed(image.log_likelihood, 6)}</td><td class="num" data-label="recomputed">${fixed(image.recomputed, 6)}</td>
        <td class="num" data-label="difference">${nats(image.difference)}</td></tr>`)}</tbody></table></div></section>`;
}

function layers({ log_dets: logDets, total }) {
  const line = (name, values) => html`<tr><th scope="row" class="break">${name}</th><td class="num" data-label="cached">${fixed(values.cached, 6)}</td>
    <td class="num" data-label="recomputed">${fixed(values.recomputed, 6)}</td><td class="num" data-label="difference">${nats(values.difference)}</td></tr>`;
  const table = (lines) => html`<div class="scroll"><table class="rows"><thead><tr><th>layer</th><th class="num">cached (nats)</th><th class="num">recomputed (nats)</th><th class="num">difference</th></tr></thead>
    <tbody>${lines}</tbody></table></div>`;
  return html`<section class="card"><h2>Log-determinants</h2>${table(line("all layers", total))}
    <details><summary>${count(logDets.length, "layer")} in detail</summary>${table(logDets.map((values) => line(values.layer, values)))}</details></section>`;
}
