// Whether scores with cached log-determinants are what the flow as trained gives, every one of them computed anew.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { count, fixed } from "../format.js";
import { notice, segments } from "../parts.js";
import { get } from "../service.js";

const COUNTS = [1, 4, 16].map((n) => [n, String(n)]);

export class Audit {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.n = 4;
    this.found = this.error = null;
    this.busy = false;
  }

  async run() {
    [this.busy, this.error] = [true, null];
    this.redraw();
    try {
      this.found = await get(this.subject.path("/audit"), { query: { n: this.n }, patient: true });
    } catch (error) {
      [this.found, this.error] = [null, error];
    }
    this.busy = false;
    this.redraw();
  }

  view() {
    const choose = (n) => { this.n = n; this.redraw(); };
    return html`<section class="card"><h2>Audit</h2>
      <p class="faint">A score adds log-determinants that were computed once and are stored with the weights. An audit scores images of the model without any of them: the flow as trained,
        in float64, each layer's log-determinant computed anew. Both numbers must agree.</p>
      <div class="row bottom">${segments("audit-n", "Images", COUNTS, this.n, choose)}
        <button class="primary" ?disabled=${this.busy} @click=${() => this.run()}>${this.busy ? "Computing ..." : this.found ? "Audit again" : "Audit"}</button></div>
      <div role="status">${this.busy ? html`<progress aria-label="Computing anew"></progress>` : this.error ? notice(this.error.message, "bad") : this.found ? verdict(this.found) : nothing}</div>
    </section>
    ${this.found ? html`${images(this.found)}${layers(this.found)}` : nothing}`;
  }
}

// Nats between two numbers that should be the same.
function apart(value) {
  return value === 0 ? "0" : value.toExponential(1).replace(".0e", "e");
}

function verdict(found) {
  const worst = Math.max(...found.images.map((one) => Math.abs(one.difference)));
  const how = `${found.engine}, ${found.precision}, in ${fixed(found.seconds, 1)} s`;
  return found.agrees
    ? html`<p class="notice good"><strong>Agrees to ${apart(worst)} nats</strong>, allowed ${apart(found.tolerance)}. <span class="faint">${how}</span></p>`
    : html`<p class="notice bad"><strong>Does not agree: ${apart(worst)} nats apart</strong>, allowed ${apart(found.tolerance)}. <span class="faint">${how}</span></p>`;
}

function images({ images: scored, engine, precision }) {
  return html`<section class="card"><h2>Log-likelihoods</h2>
    <div class="scroll"><table class="rows"><thead><tr><th>image</th><th class="num">by ${engine}, ${precision}, cached (nats)</th><th class="num">recomputed in float64 (nats)</th><th class="num">difference</th></tr></thead>
      <tbody>${scored.map((one) => html`<tr><th scope="row">${one.index + 1} <span class="faint small">${one.source === "pinned" ? "stored with the model" : "sample of the model"}</span></th>
        <td class="num" data-label="cached">${fixed(one.log_likelihood, 6)}</td><td class="num" data-label="recomputed">${fixed(one.recomputed, 6)}</td>
        <td class="num" data-label="difference">${apart(one.difference)}</td></tr>`)}</tbody></table></div></section>`;
}

function layers({ log_dets: found, total }) {
  const line = (name, one) => html`<tr><th scope="row" class="break">${name}</th><td class="num" data-label="cached">${fixed(one.cached, 6)}</td>
    <td class="num" data-label="recomputed">${fixed(one.recomputed, 6)}</td><td class="num" data-label="difference">${apart(one.difference)}</td></tr>`;
  const table = (lines) => html`<div class="scroll"><table class="rows"><thead><tr><th>layer</th><th class="num">cached (nats)</th><th class="num">recomputed (nats)</th><th class="num">difference</th></tr></thead>
    <tbody>${lines}</tbody></table></div>`;
  return html`<section class="card"><h2>Log-determinants</h2>${table(line("all layers", total))}
    <details><summary>${count(found.length, "layer")}, one by one</summary>${table(found.map((one) => line(one.layer, one)))}</details></section>`;
}
