// The Drift tab: whether scored images differ from the calibration images, by source; acknowledges alarms.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { confirmed } from "../confirm.js";
import { brief, count, moment, whole } from "../format.js";
import { call } from "../service.js";
import { complain } from "../toast.js";

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

  /** Ends the alarm of a source; its test starts anew at the next image. */
  async acknowledge(entry) {
    const text = `Its alarm ends, and its test starts anew at the next image. What it has gathered of ${count(entry.images, "image")} is dropped.`;
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

  // The page polls the model details, which include drift.
  view() {
    const { drift } = this.subject.detail;
    return html`<section class="card"><header><h2>Drift</h2>${drift.length ? verdict(drift) : ""}</header>
      <p class="faint">A capital of 1 is bet against all images being like the calibration images, on the anomaly statistic and on the white level: the grey level, 0 to 255, that 99 % of the values of an image do not exceed. Without drift it is unlikely ever to become large. The alarm says that the images differed at some time, and lasts until you acknowledge it.</p>
      ${drift.length ? this.table(drift) : empty()}
      ${drift.length ? "" : instructions(this.subject.name)}</section>`;
  }

  table(drift) {
    return html`<div class="scroll"><table class="rows drift">
      <thead><tr><th>source</th><th>verdict</th><th>images</th><th>capital</th><th>highest capital</th></tr></thead>
      <tbody>${drift.map((entry) => row(entry, () => this.acknowledge(entry)))}</tbody></table></div>`;
  }
}

function verdict(drift) {
  const alarms = drift.filter(({ alarm }) => alarm).length;
  return html`<span class="badge ${alarms ? "bad" : "good"}" role="status">${alarms ? `${alarms} of ${drift.length} tests raise an alarm` : "no alarm"}</span>`;
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
    <td data-label="images">${whole(entry.images)} <span class="small faint">since ${moment(entry.since)}</span></td>
    <td data-label="capital">${amount(entry.log10_capital)}</td>
    <td data-label="highest capital">${amount(entry.log10_highest)} <span class="small faint">by ${entry.quantity === "statistic" ? "anomaly statistic" : "white level"}, alarm from ${amount(entry.log10_threshold)}</span></td></tr>`;
}

const amount = (log10) => (log10 < LARGE ? brief(10 ** log10) : html`10<sup>${Math.floor(log10)}</sup>`);

function badge({ alarm, alarm_since: since }) {
  return alarm ? html`<span class="badge bad">drift</span> <span class="small faint">since ${moment(since)}</span>` : html`<span class="badge good">no drift</span>`;
}
