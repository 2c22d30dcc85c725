// The list of jobs, newest first, refreshed every few seconds.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { duration, fixed, moment } from "../format.js";
import { segments, stateBadge, waiting } from "../parts.js";
import { get, isAbort, pause } from "../service.js";
import { problem } from "./messages.js";
import { share } from "./progress.js";

const PAGE_SIZE = 20;
const MAX_PAGE_SIZE = 200;
const POLL_MS = 3000;
const TYPES = [["", "all"], ["train", "train"], ["score", "score"], ["calibrate", "calibrate"], ["evaluate", "evaluate"], ["limit", "limit"], ["recommend", "recommend"]];

export class Jobs {
  constructor({ changed }) {
    Object.assign(this, { changed, jobs: null, more: false, shown: PAGE_SIZE, type: "", error: null });
  }

  /** Polls until `signal` is aborted, while the page is visible. */
  async watch(signal) {
    this.signal = signal;
    while (!signal.aborted) {
      if (!document.hidden) await this.load(signal);
      if (this.keyless) return; // polling would reopen the key dialog
      await pause(POLL_MS, signal).catch(() => undefined);
    }
  }

  /** Whether the service requires an API key and none was given. */
  get keyless() {
    return this.error?.status === 401;
  }

  async load(signal) {
    const { type, shown } = this;
    try {
      const jobs = [];
      let after = null;
      do {
        const query = { limit: Math.min(MAX_PAGE_SIZE, shown - jobs.length), after, type: type || null };
        const page = await get("/v1/jobs", { query, signal });
        jobs.push(...page.jobs);
        after = page.next;
      } while (after && jobs.length < shown);
      if (type === this.type) Object.assign(this, { jobs, more: Boolean(after), error: null });
    } catch (error) {
      if (isAbort(error)) return;
      this.error = error; // the previous list stays visible
    }
    this.changed();
  }

  set(change) {
    Object.assign(this, change);
    this.load();
    this.changed();
  }

  view() {
    return html`<section class="card" aria-labelledby="jobs-title">
      <header><h2 id="jobs-title">Jobs</h2>${segments("job-type", html`<span class="sr-only">Type</span>`, TYPES, this.type, (type) => this.set({ type, shown: PAGE_SIZE }))}</header>
      ${problem(this.error)}
      ${this.keyless ? html`<div><button @click=${() => this.watch(this.signal)}>Try again</button></div>` : nothing}
      ${this.jobs === null ? (this.error ? nothing : waiting("Loading jobs ...")) : this.jobs.length ? this.table() : html`<p class="empty">${this.type ? "No jobs of this type." : "No jobs yet. Start a training above."}</p>`}
      ${this.more ? html`<div><button @click=${() => this.set({ shown: this.shown + PAGE_SIZE })}>Show more</button></div>` : nothing}
    </section>`;
  }

  table() {
    return html`<table class="jobs">
      <thead><tr><th>status</th><th>model</th><th>type</th><th>dataset</th><th class="wide">progress</th><th class="num">ETA</th><th class="num">bits/dim</th><th>queued</th></tr></thead>
      <tbody>${repeat(this.jobs, ({ id }) => id, row)}</tbody></table>`;
  }
}

function row(job) {
  const done = share(job);
  const finished = ["succeeded", "partial", "failed", "cancelled"].includes(job.status);
  return html`<tr>
    <td>${stateBadge(job.status)}</td>
    <td class="break"><a href="#/train/${job.id}" aria-label="${job.type} ${job.model || job.dataset}, ${job.status}">${job.result?.ref ?? (job.model || job.result?.proposal || "recommendation")}</a></td>
    <td>${job.type}</td>
    <td class="break">${job.dataset}</td>
    <td class="progress">${done == null || finished ? (job.error ? html`<span class="small">${job.error.title}</span>` : html`<span class="faint">${finished ? "" : job.waits_for ?? "waiting"}</span>`)
      : html`<progress aria-label="Progress" max="1" .value=${done}></progress>`}</td>
    <td class="num" data-label="ETA">${finished || done == null ? "" : duration(job.progress.eta_seconds)}</td>
    <td class="num" data-label="bits/dim">${bits(job)}</td>
    <td class="small faint nowrap-text">${moment(job.created_at)}</td>
  </tr>`;
}

function bits({ metrics, status }) {
  if (status === "failed") return ""; // the last values of a diverged training are meaningless
  const value = metrics.evaluation?.test_bits_per_dim ?? metrics.validation_bits_per_dim ?? metrics.bits_per_dim;
  return value == null ? "" : fixed(value, 3);
}
