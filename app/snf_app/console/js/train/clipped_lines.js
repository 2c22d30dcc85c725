// A line chart that leaves spikes out, says so, and shows the whole range on request: the element `snf-clipped-lines`.
import { html, nothing, render } from "../../vendor/lit-html/lit-html.js";
import { brief, whole } from "../format.js";
import { clipped } from "./clipping.js";
import "../charts.js";

/** `.label` is the label of the chart; `.x`, `.y`, `.log` and `.series` are those of `snf-lines`. */
class ClippedLines extends HTMLElement {
  connectedCallback() {
    this.classList.add("stack");
  }

  set series(value) {
    this.lines = value;
    this.draw();
  }

  draw() {
    const clip = clipped(this.lines, this.log);
    render(html`<snf-lines aria-label=${this.label} .log=${this.log} .x=${this.x} .y=${this.y} .range=${this.isWhole ? null : clip?.range ?? null} .series=${this.lines}></snf-lines>
      ${clip ? html`<p class="small faint">${this.isWhole ? "The whole range is shown." : outside(clip)}
        <button type="button" class="link" @click=${() => this.toggle()}>${this.isWhole ? "leave out what is far outside" : "whole range"}</button></p>` : nothing}`, this);
  }

  toggle() {
    this.isWhole = !this.isWhole;
    this.draw();
  }
}

/** Names the values that are not drawn: "3 values above 9.2 are outside, the highest 154 at step 12." */
function outside({ range: [low, high], above, below }) {
  const extreme = (points, better) => points.reduce((best, point) => (better(point.y, best.y) ? point : best));
  const sentences = [];
  if (above.length) sentences.push(sentence(above, `above ${brief(high)}`, "highest", extreme(above, (a, b) => a > b)));
  if (below.length) sentences.push(sentence(below, `below ${brief(low)}`, "lowest", extreme(below, (a, b) => a < b)));
  return sentences.join(" ");
}

function sentence({ length }, where, word, { x, y }) {
  const place = `${brief(y)} at step ${whole(x)}`;
  return length === 1 ? `1 value ${where} is outside: ${place}.` : `${whole(length)} values ${where} are outside, the ${word} ${place}.`;
}

customElements.define("snf-clipped-lines", ClippedLines);
