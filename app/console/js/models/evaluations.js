// How well a model tells normal images from others: the evaluations that were made, and how to make one.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { fixed, moment, whole } from "../format.js";
import { failure, stateBadge, waiting } from "../parts.js";
import { call, get, hasKey, save } from "../service.js";
import { complain } from "../toast.js";
import { EvaluationForm } from "./evaluation_form.js";
import { report } from "./report.js";

const SHOWN = 20;
const PAGES = 5; // of 200 jobs: older ones are found by the API
const OVER = new Set(["succeeded", "failed", "cancelled"]);

export class Evaluations {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.jobs = this.error = this.open = null;
    this.shown = SHOWN;
    this.reports = new Map(); // by job: the report, or the error
    this.awaited = null; // a job whose report is shown once it is there
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
      this.jobs = await this.ask();
      this.error = null;
      const done = this.jobs.filter((one) => one.status === "succeeded");
      const found = done.find((one) => one.id === this.awaited) ?? (first ? done[0] : null);
      if (found && this.open !== found.id) this.show(found.id);
      if (found?.id === this.awaited) this.awaited = null;
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  async ask() {
    const found = [];
    let after = null;
    for (let page = 0; page < PAGES; page += 1) {
      const { jobs, next } = await get("/v1/jobs", { query: { type: "evaluate", limit: 200, after } });
      found.push(...jobs.filter((one) => one.model.split(":")[0] === this.subject.name));
      if (!next) break;
      after = next;
    }
    return found;
  }

  show(job) {
    this.open = this.open === job ? null : job;
    this.redraw();
    if (this.open && !this.reports.has(job)) this.read(job);
  }

  async read(job) {
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
        ${this.jobs?.length ? this.table() : this.jobs ? html`<p class="empty">There is none yet of this model. An evaluation says how well it tells normal images from others, and whether false alarms are as many as promised.</p>`
          : this.error ? nothing : waiting()}</section>
      ${this.open ? this.opened() : nothing}
      ${this.form.view()}`;
  }

  table() {
    return html`<div class="scroll"><table class="rows evaluations">
      <thead><tr><th>when</th><th class="num">version</th><th>normal images</th><th>told from</th><th class="num">AUROC</th><th>state</th><th><span class="sr-only">actions</span></th></tr></thead>
      <tbody>${repeat(this.jobs.slice(0, this.shown), (one) => one.id, (one) => this.row(one))}</tbody></table></div>
      ${this.jobs.length > this.shown ? html`<div><button @click=${() => { this.shown += SHOWN; this.redraw(); }}>Show more of ${this.jobs.length}</button></div>` : nothing}`;
  }

  row(job) {
    const { against = [], corruptions } = job.parameters;
    const sets = [...against, ...(corruptions ? ["graded faults"] : [])].join(", ");
    const auroc = against.map((name) => job.result?.auroc?.[name]).filter((one) => one != null);
    const open = this.open === job.id;
    return html`<tr class=${open ? "here" : ""}>
      <th scope="row">${job.status === "succeeded" ? html`<button class="link" aria-expanded=${open} @click=${() => this.show(job.id)}>${moment(job.created_at)}</button>` : moment(job.created_at)}</th>
      <td class="num" data-label="version">${job.model.split(":")[1]}</td>
      <td class="break" data-label="normal">${job.dataset}</td><td class="break" data-label="told from">${sets}</td>
      <td class="num" data-label="AUROC">${auroc.length ? auroc.map((one) => fixed(one, 4)).join(", ") : "–"}</td>
      <td>${stateBadge(job.status)} ${!OVER.has(job.status) && job.progress.fraction != null ? html`<span class="small">${whole(100 * job.progress.fraction)} %</span>` : nothing}
        ${job.error ? html`<p class="small break">${job.error.detail}</p>` : nothing}</td>
      <td><span class="row end nobreak">${job.status === "succeeded" ? this.links(job.id) : nothing}<a href="#/train/${job.id}">job</a></span></td></tr>`;
  }

  // A link to the service alone carries no key.
  links(job) {
    return hasKey() ? html`<button class="link" @click=${() => this.download(job)}>full report</button>`
      : html`<a href="/v1/jobs/${job}/result?format=html" target="_blank" rel="noopener">full report</a>`;
  }

  opened() {
    const found = this.reports.get(this.open);
    if (found instanceof Error) return failure(found, () => this.read(this.open));
    return found ? report(found) : html`<section class="card">${waiting()}</section>`;
  }
}
