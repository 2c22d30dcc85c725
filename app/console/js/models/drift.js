// The Drift tab: compares recent images with the calibration images, by source.
import { html } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed, moment, whole } from "../format.js";

const EXPECTED_SHARE = 0.05; // expected share of p-values up to 0.05 without drift
const FULL_BAR = 4; // a full bar, as a multiple of the expected share

export class Drift {
  constructor(subject) {
    this.subject = subject;
  }

  // The page polls the model details, which include the drift windows.
  view() {
    const { drift } = this.subject.detail;
    return html`<section class="card"><header><h2>Drift</h2>${drift.length ? verdict(drift) : ""}</header>
      <p class="faint">Compares p-values and light of recent images with those of the calibration images. Without drift about 5 % of the p-values are at or below 0.05. The white level is the grey level, 0 to 255, that 99 % of the values of an image do not exceed.</p>
      ${drift.length ? table(drift) : empty()}
      ${drift.length && !drift.some(({ source }) => source !== null) ? html`<details><summary>Monitor sources separately</summary>${instructions(this.subject.name)}</details>` : ""}
      ${drift.length ? "" : instructions(this.subject.name)}</section>`;
}
}

function verdict(drift) {
  const alarms = drift.filter(({ alarm }) => alarm).length;
  const untested = drift.every((entry) => entry.p_value === null);
  const text = alarms ? `${alarms} of ${drift.length} windows raise an alarm` : untested ? "too few images" : "no alarm";
  return html`<span class="badge ${alarms ? "bad" : untested ? "" : "good"}" role="status">${text}</span>`;
}

function empty() {
  return html`<p class="empty">This version has not scored an image with this calibration yet. <a href="#/score">Score images</a>.</p>`;
}

function instructions(name) {
  const command = `curl -s -F images=@part.png \\\n     '${location.origin}/v1/models/${name}/score?source=camera-1'`;
  return html`<div class="stack"><p>Name the origin of the images in each request: a camera, a line or a lot. Each <code>source</code> is monitored separately.</p>
    <pre class="code" tabindex="0" aria-label="Example request with a source"><code>${command}</code></pre></div>`;
}

function table(drift) {
  return html`<div class="scroll"><table class="rows drift">
    <thead><tr><th>source</th><th>verdict</th><th class="num">images</th><th>p ≤ 0.05</th><th class="num">KS distance</th><th class="num">p-value</th><th>white level</th><th>oldest image</th></tr></thead>
    <tbody>${drift.map(row)}</tbody></table></div>`;
}

function row(entry) {
  return html`<tr>
    <th class="break" scope="row">${entry.source ?? "all images"}</th>
    <td>${badge(entry)}</td>
    <td class="num" data-label="images">${whole(entry.images)}</td>
    <td data-label="p ≤ 0.05"><span class="share"><span class="bar marked" aria-hidden="true"><i .style=${`width: ${Math.min(100, (100 * entry.low_share) / (FULL_BAR * EXPECTED_SHARE))}%`}></i></span>
      <span>${fixed(100 * entry.low_share, 1)} %</span></span></td>
    <td class="num" data-label="KS distance">${fixed(entry.statistic, 3)}</td>
    <td class="num" data-label="p-value">${brief(entry.p_value)}</td>
    <td data-label="white level">${light(entry.white_level)}</td>
    <td class="small" data-label="since">${moment(entry.since)}</td></tr>`;
}

function light(level) {
  if (level === null) return html`<span class="faint">–</span>`;
  return html`${whole(level.median)} <span class="small faint">usually ${whole(level.usual)}, p ${brief(level.p_value)}</span>`;
}

function badge(entry) {
  if (entry.alarm) return html`<span class="badge bad">drift</span> <span class="small faint">since ${moment(entry.alarm_since)}</span>`;
  return entry.p_value === null ? html`<span class="badge">too few images</span>` : html`<span class="badge good">no drift</span>`;
}
