// Whether recent images look like the calibration images.
import { html } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed, moment, whole } from "../format.js";

const EXPECTED = 0.05; // share of p-values of 0.05 or less without drift
const FULL = 4; // times that: a full bar

export class Drift {
  constructor(subject) {
    this.subject = subject;
  }

  // The page asks for the model's detail every few seconds: drift comes with it.
  view() {
    const { drift } = this.subject.detail;
    return html`<section class="card"><header><h2>Drift</h2>${drift.length ? verdict(drift) : ""}</header>
      <p class="faint">The p-values of the newest images of each source, compared with those of the calibration images. Without drift about 5 % of them are at most 0.05.</p>
      ${drift.length ? table(drift) : empty()}
      ${drift.length && !drift.some((one) => one.source !== null) ? html`<details><summary>Tell sources apart</summary>${how(this.subject.name)}</details>` : ""}
      ${drift.length ? "" : how(this.subject.name)}</section>`;
}
}

function verdict(drift) {
  const alarms = drift.filter((one) => one.alarm).length;
  const words = alarms ? `${alarms} of ${drift.length} windows raise an alarm` : drift.every((one) => one.p_value === null) ? "too few images to tell" : "no alarm";
  return html`<span class="badge ${alarms ? "bad" : drift.every((one) => one.p_value === null) ? "" : "good"}" role="status">${words}</span>`;
}

function empty() {
  return html`<p class="empty">No image was scored by this version with this calibration yet. <a href="#/score">Score some</a>.</p>`;
}

function how(name) {
  const command = `curl -s -F images=@part.png \\\n     '${location.origin}/v1/models/${name}/score?source=camera-1'`;
  return html`<div class="stack"><p>Say with every score where its image comes from: a camera, a line, a lot. Each <code>source</code> has a window of its own, and an alarm says which one went astray.</p>
    <pre class="code" tabindex="0" aria-label="A score with a source"><code>${command}</code></pre></div>`;
}

function table(drift) {
  return html`<div class="scroll"><table class="rows drift">
    <thead><tr><th>source</th><th>verdict</th><th class="num">images</th><th>p ≤ 0.05</th><th class="num">KS distance</th><th class="num">p-value</th><th>oldest image</th></tr></thead>
    <tbody>${drift.map(row)}</tbody></table></div>`;
}

function row(one) {
  return html`<tr>
    <th class="break" scope="row">${one.source ?? "all images"}</th>
    <td>${badge(one)}</td>
    <td class="num" data-label="images">${whole(one.images)}</td>
    <td data-label="p ≤ 0.05"><span class="share"><span class="bar marked" aria-hidden="true"><i .style=${`width: ${Math.min(100, (100 * one.low_share) / (FULL * EXPECTED))}%`}></i></span>
      <span>${fixed(100 * one.low_share, 1)} %</span></span></td>
    <td class="num" data-label="KS distance">${fixed(one.statistic, 3)}</td>
    <td class="num" data-label="p-value">${brief(one.p_value)}</td>
    <td class="small" data-label="since">${moment(one.since)}</td></tr>`;
}

function badge(one) {
  if (one.alarm) return html`<span class="badge bad">drift</span> <span class="small faint">since ${moment(one.alarm_since)}</span>`;
  return one.p_value === null ? html`<span class="badge">too few images</span>` : html`<span class="badge good">as calibrated</span>`;
}
