// The Evaluations tab: lists the evaluations of a model, shows a report, and starts a new evaluation.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { fixed, moment, whole } from "../format.js";
import { failure, stateBadge, waiting } from "../parts.js";
import { call, get, hasKey, save } from "../service.js";
import { complain } from "../toast.js";
import { EvaluationForm } from "./evaluation_form.js";
import { report } from "./report.js";

const PAGE_SIZE = 20;
const MAX_PAGES = 5; // of 200 jobs each; older jobs are available through the API
const FINISHED = new Set(["succeeded", "partial", "failed", "cancelled"]);

export class Evaluations {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.jobs = this.error = this.open = null;
    this.shown = PAGE_SIZE;
    this.reports = new Map(); // job id -> report or error
    this.awaited = null; // the job whose report is opened when it is finished
    this.form = new EvaluationForm(subject, redraw, (job) => { this.awaited = job; this.refresh(); });
  }

  start() {
    this.form.start();
  }

  back() {
    this.form.start();
  }

  async refresh() {
    try {
      const first = this.jobs === null;
      this.jobs = await this.loadJobs();
      this.error = null;
      const done = this.jobs.filter(({ status }) => status === "succeeded");
      const next = done.find(({ id }) => id === this.awaited) ?? (first ? done[0] : null);
      if (next && this.open !== next.id) this.show(next.id);
      if (next?.id === this.awaited) this.awaited = null;
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  async loadJobs() {
    const evaluations = [];
    let after = null;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const { jobs, next } = await get("/v1/jobs", { query: { type: "evaluate", limit: 200, after } });
      evaluations.push(...jobs.filter(({ model }) => model.split(":")[0] === this.subject.name));
      if (!next) break;
      after = next;
    }
    return evaluations;
  }

  show(job) {
    this.open = this.open === job ? null : job;
    this.redraw();
    if (this.open && !this.reports.has(job)) this.loadReport(job);
  }

  async loadReport(job) {
    this.reports.delete(job);
    this.redraw();
    try {
      this.reports.set(job, await get(`/v1/jobs/${job}/result`, { query: { format: "json" } }));
    } catch (error) {
      this.reports.set(job, error);
    }
    this.redraw();
  }

  async download(job) {
    try {
      save(await (await call(`/v1/jobs/${job}/result`, { query: { format: "html" } })).blob(), `evaluation-${this.subject.name}-${job}.html`);
    } catch (error) {
      complain(error);
    }
  }

  view() {
    return html`<section class="card"><h2>Evaluations</h2>
        ${this.error ? failure(this.error, () => this.refresh()) : nothing}
        ${this.jobs?.length ? this.table() : this.jobs ? html`<p class="empty">This model has no evaluation yet. An evaluation measures how well the model separates normal from anomalous images and checks its false-alarm rate. Start one below.</p>`
          : this.error ? nothing : waiting()}</section>
      ${this.open ? this.opened() : nothing}
      ${this.form.view()}`;
  }

  table() {
    return html`<div class="scroll"><table class="rows evaluations">
      <thead><tr><th>when</th><th class="num">version</th><th>normal images</th><th>anomalous images</th><th class="num">AUROC</th><th>state</th><th><span class="sr-only">actions</span></th></tr></thead>
      <tbody>${repeat(this.jobs.slice(0, this.shown), (job) => job.id, (job) => this.row(job))}</tbody></table></div>
      ${this.jobs.length > this.shown ? html`<div><button @click=${() => { this.shown += PAGE_SIZE; this.redraw(); }}>Show more (${this.jobs.length} in total)</button></div>` : nothing}`;
  }

  row(job) {
    const { against = [], corruptions } = job.parameters;
    const sets = [...against, ...(corruptions ? ["graded corruptions"] : [])].join(", ");
    const auroc = against.map((name) => job.result?.auroc?.[name]).filter((value) => value != null);
    const open = this.open === job.id;
    return html`<tr class=${open ? "here" : ""}>
      <th scope="row">${job.status === "succeeded" ? html`<button class="link" aria-expanded=${open} @click=${() => this.show(job.id)}>${moment(job.created_at)}</button>` : moment(job.created_at)}</th>
      <td class="num" data-label="version">${job.model.split(":")[1]}</td>
      <td class="break" data-label="normal">${job.dataset}</td><td class="break" data-label="anomalous">${sets}</td>
      <td class="num" data-label="AUROC">${auroc.length ? auroc.map((value) => fixed(value, 4)).join(", ") : "–"}</td>
      <td>${stateBadge(job.status)} ${!FINISHED.has(job.status) && job.progress.fraction != null ? html`<span class="small">${whole(100 * job.progress.fraction)} %</span>` : nothing}
        ${job.error ? html`<p class="small break">${job.error.detail}</p>` : nothing}</td>
      <td><span class="row end nobreak">${job.status === "succeeded" ? this.links(job.id) : nothing}<a href="#/train/${job.id}">job</a></span></td></tr>`;
  }

  // A plain link would not send the API key.
  links(job) {
    return hasKey() ? html`<button class="link" @click=${() => this.download(job)}>full report</button>`
      : html`<a href="/v1/jobs/${job}/result?format=html" target="_blank" rel="noopener">full report</a>`;
  }

  opened() {
    const loaded = this.reports.get(this.open);
    if (loaded instanceof Error) return failure(loaded, () => this.loadReport(this.open));
    return loaded ? report(loaded) : html`<section class="card">${waiting()}</section>`;
  }
}
