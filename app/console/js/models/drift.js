// The Drift tab: compares scored images with the calibration images, by source, and acknowledges alarms.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { confirmed } from "../confirm.js";
import { brief, count, fixed, moment, whole } from "../format.js";
import { call } from "../service.js";
import { complain } from "../toast.js";

const EXPECTED_SHARE = 0.05; // expected share of p-values up to 0.05 without drift
const FULL_BAR = 4; // a full bar, as a multiple of the expected share

const TESTS = { "p-values": "KS of p-values", "white-level": "KS of white levels", martingale: "martingale" };
const LARGE = 6; // a capital from ten to this power is shown as a power

/** Returns which images of a version raise an alarm, as one sentence; an empty one without alarms. */
export function driftText(detail) {
  const sources = (detail?.drift ?? []).filter(({ alarm }) => alarm).map(name);
  return sources.length ? `Drift (${sources.join(", ")}): the images differ from the calibration images. Do not rely on the verdicts.` : "";
}

const name = ({ source }) => source ?? "all sources";

export class Drift {
  constructor(subject, redraw, reload) {
    [this.subject, this.reload] = [subject, reload];
  }

  /** Ends the alarm of a window; its tests start anew at the next image. */
  async acknowledge(entry) {
    const text = `Its alarm ends, and its tests start anew at the next image. What they have gathered of ${count(entry.martingale?.images ?? entry.images, "image")} is dropped.`;
    if (!(await confirmed(`Acknowledge drift of ${name(entry)}?`, text, "Acknowledge"))) return;
    const source = entry.source === null ? "" : `/${encodeURIComponent(entry.source)}`;
    try {
      await call(this.subject.path(`/drift${source}`), { method: "DELETE" });
      await this.reload();
      document.getElementById("panel")?.focus();
    } catch (error) {
      complain(error);
    }
  }

  // The page polls the model details, which include the drift windows.
  view() {
    const { drift } = this.subject.detail;
    return html`<section class="card"><header><h2>Drift</h2>${drift.length ? verdict(drift) : ""}</header>
      <p class="faint">Compares p-values and light of scored images with those of the calibration images. Without drift about 5 % of the p-values are at or below 0.05. The white level is the grey level, 0 to 255, that 99 % of the values of an image do not exceed.</p>
      <p class="faint">The Kolmogorov-Smirnov tests (KS) see the newest images; their alarm ends when these fit again. The martingale bets a capital of 1 against all images being like the calibration images. Without drift it is unlikely ever to become large. Its alarm says that they differed at some time, and lasts until you acknowledge it.</p>
      ${drift.length ? this.table(drift) : empty()}
      ${drift.length ? "" : instructions(this.subject.name)}</section>`;
  }

  table(drift) {
    return html`<div class="scroll"><table class="rows drift">
      <thead><tr><th>source</th><th>verdict</th><th>newest images</th><th>p ≤ 0.05</th><th>KS of p-values</th><th>KS of white levels</th><th>martingale</th></tr></thead>
      <tbody>${drift.map((entry) => row(entry, () => this.acknowledge(entry)))}</tbody></table></div>`;
  }
}

function verdict(drift) {
  const alarms = drift.filter(({ alarm }) => alarm).length;
  const untested = drift.every((entry) => entry.p_value === null);
  const text = alarms ? `${alarms} of ${drift.length} windows raise an alarm` : untested ? "too few images" : "no alarm";
  return html`<span class="badge ${alarms ? "bad" : untested ? "" : "good"}" role="status">${text}</span>`;
}

function empty() {
  return html`<p class="empty">No image with a source was scored by this version and calibration yet.</p>`;
}

function instructions(name) {
  const command = `curl -s -F images=@part.png \\\n     '${location.origin}/v1/models/${name}/score?source=camera-1'`;
  return html`<div class="stack"><p>Name the origin of the images in each request: a camera, a line or a lot. Each <code>source</code> is watched on its own, and all sources together. Images without a source, such as tries, are not watched.</p>
    <pre class="code" tabindex="0" aria-label="Example request with a source"><code>${command}</code></pre></div>`;
}

function row(entry, acknowledge) {
  return html`<tr>
    <th class=${entry.source === null ? "" : "break"} scope="row">${name(entry)}</th>
    <td>${badge(entry)} ${entry.alarm ? html`<button class="small" aria-label="Acknowledge drift of ${name(entry)}" @click=${acknowledge}>Acknowledge</button>` : nothing}</td>
    <td data-label="newest images">${whole(entry.images)} <span class="small faint">since ${moment(entry.since)}</span></td>
    <td data-label="p ≤ 0.05"><span class="share"><span class="bar marked" aria-hidden="true"><i .style=${`width: ${Math.min(100, (100 * entry.low_share) / (FULL_BAR * EXPECTED_SHARE))}%`}></i></span>
      <span>${fixed(100 * entry.low_share, 1)} %</span></span></td>
    <td data-label="KS of p-values">${entry.p_value === null ? html`<span class="faint">–</span>` : html`p ${brief(entry.p_value)} <span class="small faint">distance ${fixed(entry.statistic, 3)}</span>`}</td>
    <td data-label="KS of white levels">${light(entry.white_level)}</td>
    <td data-label="martingale">${capital(entry.martingale)}</td></tr>`;
}

function capital(martingale) {
  if (!martingale) return html`<span class="faint">–</span>`;
  return html`${amount(martingale.log10_capital)} <span class="small faint">highest ${amount(martingale.log10_highest)}, alarm from ${amount(martingale.log10_threshold)}; ${count(martingale.images, "image")}</span>`;
}

const amount = (log10) => (log10 < LARGE ? brief(10 ** log10) : html`10<sup>${Math.floor(log10)}</sup>`);

function light(level) {
  if (level === null) return html`<span class="faint">–</span>`;
  return html`p ${brief(level.p_value)} <span class="small faint">level ${whole(level.median)}, usually ${whole(level.usual)}</span>`;
}

function badge(entry) {
  if (entry.alarm) return html`<span class="badge bad">drift</span> <span class="small faint">since ${moment(entry.alarm_since)} by ${entry.alarm_by.map((test) => TESTS[test]).join(", ")}</span>`;
  return entry.p_value === null ? html`<span class="badge">too few images</span>` : html`<span class="badge good">no drift</span>`;
}
