// The jobs, newest first, asked for again every few seconds.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { duration, fixed, moment } from "../format.js";
import { segments, stateBadge, waiting } from "../parts.js";
import { get, isAbort, pause } from "../service.js";
import { problem } from "./messages.js";
import { share } from "./progress.js";

const PAGE = 20;
const LARGEST_PAGE = 200;
const AGAIN_MS = 3000;
const TYPES = [["", "all"], ["train", "train"], ["score", "score"], ["calibrate", "calibrate"], ["evaluate", "evaluate"]];

export class Jobs {
  constructor({ changed }) {
    Object.assign(this, { changed, jobs: null, more: false, shown: PAGE, type: "", error: null });
  }

  /** Asks until `signal` is aborted, while the page can be seen. */
  async watch(signal) {
    while (!signal.aborted) {
      if (!document.hidden) await this.load(signal);
      await pause(AGAIN_MS, signal).catch(() => undefined);
    }
  }

  async load(signal) {
    const { type, shown } = this;
    try {
      const jobs = [];
      let after = null;
      do {
        const query = { limit: Math.min(LARGEST_PAGE, shown - jobs.length), after, type: type || null };
        const page = await get("/v1/jobs", { query, signal });
        jobs.push(...page.jobs);
        after = page.next;
      } while (after && jobs.length < shown);
      if (type === this.type) Object.assign(this, { jobs, more: Boolean(after), error: null });
    } catch (error) {
      if (isAbort(error)) return;
      this.error = error; // what was known stays
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
      <header><h2 id="jobs-title">Jobs</h2>${segments("job-type", html`<span class="sr-only">Type</span>`, TYPES, this.type, (type) => this.set({ type, shown: PAGE }))}</header>
      ${problem(this.error)}
      ${this.jobs === null ? (this.error ? nothing : waiting("Asking for the jobs ...")) : this.jobs.length ? this.table() : html`<p class="empty">No jobs yet.</p>`}
      ${this.more ? html`<div><button @click=${() => this.set({ shown: this.shown + PAGE })}>Show more</button></div>` : nothing}
    </section>`;
  }

  table() {
    return html`<table class="jobs">
      <thead><tr><th>status</th><th>model</th><th>type</th><th>dataset</th><th class="wide">progress</th><th class="num">ETA</th><th class="num">bits/dim</th><th>queued</th></tr></thead>
      <tbody>${repeat(this.jobs, (one) => one.id, row)}</tbody></table>`;
  }
}

function row(job) {
  const part = share(job);
  const over = ["succeeded", "failed", "cancelled"].includes(job.status);
  return html`<tr>
    <td>${stateBadge(job.status)}</td>
    <td class="break"><a href="#/train/${job.id}" aria-label="${job.type} ${job.model}, ${job.status}">${job.result?.ref ?? job.model}</a></td>
    <td>${job.type}</td>
    <td class="break">${job.dataset}</td>
    <td class="progress">${part == null || over ? (job.error ? html`<span class="small">${job.error.title}</span>` : html`<span class="faint">${over ? "" : "waits"}</span>`)
      : html`<progress aria-label="Progress" max="1" .value=${part}></progress>`}</td>
    <td class="num" data-label="ETA">${over || part == null ? "" : duration(job.progress.eta_seconds)}</td>
    <td class="num" data-label="bits/dim">${bits(job)}</td>
    <td class="small faint nowrap-text">${moment(job.created_at)}</td>
  </tr>`;
}

function bits({ metrics }) {
  const found = metrics.evaluation?.test_bits_per_dim ?? metrics.validation_bits_per_dim ?? metrics.bits_per_dim;
  return found == null ? "" : fixed(found, 3);
}
