// The log of a job: its events as text, and the output of its processes.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { ref } from "../../vendor/lit-html/directives/ref.js";
import { fixed, whole } from "../format.js";
import { unfitText } from "../parts.js";
import { call } from "../service.js";

const MAX_LINES = 1000;

const MESSAGES = {
  state: ({ status, attempt, worker }) => `${status}${attempt > 1 ? `, attempt ${attempt}` : ""}${worker && status === "starting" ? ` on ${worker}` : ""}`,
  log: ({ message }) => message,
  validation: ({ step, bits_per_dim: bits }) => `step ${whole(step)}: validation ${fixed(bits, 4)} bits/dim`,
  error: ({ title, detail }) => `${title}: ${detail}`,
  evaluation: ({ test_bits_per_dim: bits, test_nats: nats, test_images: images }) => {
    if (bits != null) return `test ${fixed(bits, 4)} bits/dim on ${whole(images)} images`;
    return nats == null ? "evaluated, without test images" : `test log-likelihood ${fixed(-nats, 1)} nats on ${whole(images)} images`;
  },
  published: ({ ref: name, live, live_version: used, unfit }) => (unfit?.length ? `${name} is published${live ? "" : ", not live"}. ${unfitText(unfit)}` : `${name} is registered${live || used == null ? "" : `; version ${used} stays live`}`),
  scored: ({ images, anomalies, errors }) => `${whole(images)} images scored: ${whole(anomalies)} anomalies, ${whole(errors)} errors`,
  calibrated: ({ ref: name, calibration, active, reason }) => `${name} has calibration ${calibration}${active === false ? `, which is not in use: ${reason}` : reason ? `: ${reason}` : ""}`,
  recommended: ({ proposal }) => (proposal ? `the family ${proposal} is proposed` : "no family is proposed"),
  limited: ({ ref: name, limit }) => `${name} has detection limit ${limit}`,
  evaluated: ({ auroc }) => (auroc == null ? "the report is ready" : `AUROC ${fixed(auroc, 4)}`),
};

export class Log {
  constructor(job, { changed }) {
    Object.assign(this, { job, changed, lines: [], printed: "", following: true });
  }

  /** Adds an event. Kinds without a message are skipped. */
  add({ kind, data }) {
    const text = MESSAGES[kind]?.(data);
    if (!text) return;
    this.lines.push({ time: data.time, text, bad: kind === "error" });
    if (this.lines.length > MAX_LINES) this.lines.shift();
  }

  async load(signal) {
    this.printed = await (await call(`/v1/jobs/${this.job}/log`, { signal })).text();
    this.changed();
  }

  view() {
    // Keeps the scroll position if the user has turned off following.
    const toEnd = (element) => { if (element && this.following) element.scrollTop = element.scrollHeight; };
    return html`<header><h2>Log</h2>
        <label class="check"><input type="checkbox" .checked=${this.following} @change=${(event) => { this.following = event.target.checked; this.changed(); }}> scroll to the end</label></header>
      ${this.lines.length ? html`<div class="log" tabindex="0" role="log" aria-label="Messages" aria-live="off" ${ref((element) => toEnd(element))}>
        ${this.lines.map(({ time, text, bad }) => html`<p class=${bad ? "bad" : ""}><time>${clock(time)}</time> <span class="break">${text}</span></p>`)}</div>`
        : html`<p class="empty">No messages yet.</p>`}
      ${this.printed ? html`<details><summary>Process output</summary><pre class="log" tabindex="0" role="region" aria-label="Process output" ${ref((element) => toEnd(element))}>${this.printed}</pre></details>` : nothing}`;
  }
}

const clock = (time) => (time ? new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" }) : "");
