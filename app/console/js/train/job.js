// One job, followed live.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { confirmed } from "../confirm.js";
import { follow } from "../events.js";
import { bytes, duration, moment, whole } from "../format.js";
import { facts, stateBadge, waiting } from "../parts.js";
import { get, isAbort, pause } from "../service.js";
import { complain, toast } from "../toast.js";
import { Curve } from "./curve.js";
import { Log } from "./log.js";
import { problem } from "./messages.js";
import { aliasesOf, outcome } from "./outcome.js";
import { Previews } from "./previews.js";
import { share, steps } from "./progress.js";

const POINTS = 1000;
const AGAIN_MS = 3000;
const OVER = new Set(["succeeded", "failed", "cancelled"]);
const TITLES = { train: "Training", score: "Scoring", calibrate: "Calibration", evaluate: "Evaluation" };
const ACTIONS = [["pause", "Pause"], ["resume", "Resume"], ["cancel", "Cancel"], ["retry", "Try again"]];

export class Job {
  constructor(id, { changed }) {
    Object.assign(this, { id, changed, job: null, error: null, lost: false, silent: false, aliases: null, doing: "", acting: false });
    this.curve = new Curve();
    this.previews = new Previews(id, { changed });
    this.log = new Log(id, { changed });
  }

  /** Follows the job until it is over or `signal` is aborted. */
  async watch(signal) {
    this.signal = signal;
    signal.addEventListener("abort", () => this.previews.clear());
    try {
      await this.load();
      if (this.job.type === "train") {
        this.curve.begin(await get(`/v1/jobs/${this.id}/metrics`, { query: { points: POINTS }, signal }));
        this.known = this.curve.validation.newest;
        await this.previews.load(signal);
      }
      this.changed();
      this.look();
      await follow(this.id, { tell: (event) => this.tell(event), lost: (lost) => { this.lost = lost; this.changed(); }, signal });
      await this.load();
      await this.log.load(signal);
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      this.error = error;
      this.changed();
    }
  }

  async load() {
    this.job = await get(`/v1/jobs/${this.id}`, { signal: this.signal });
    this.changed();
    if (this.job.status === "succeeded" && this.job.type === "train" && !this.aliases) this.aliases = await aliasesOf(this.job, this.signal);
    this.changed();
  }

  // Events tell how the training goes; what they leave out is asked for: the log, the place in line, the clock.
  async look() {
    while (!this.signal.aborted && !OVER.has(this.job.status)) {
      try {
        if (!document.hidden) await Promise.all([this.load(), this.log.load(this.signal)]);
        this.silent = false;
      } catch (error) {
        if (isAbort(error) || error.status === 401) return; // without a key, asking again would only open its dialog again
        this.silent = true;
      }
      this.changed();
      await pause(AGAIN_MS, this.signal).catch(() => undefined);
    }
  }

  tell(event) {
    const { kind, data } = event;
    this.log.add(event);
    if (kind === "metrics") {
      this.curve.training.add(data);
      this.doing = "";
      this.advance(data);
    } else if (kind === "validation") this.curve.validation.add(data);
    else if (kind === "samples") this.sampled(data);
    else if (kind === "scoring") this.doing = `${data.part}: ${whole(data.done)} of ${whole(data.images)} images`;
    else if (kind === "log") this.doing = data.message;
    this.changed();
  }

  // Events begin with the first there was; what the page has asked for already is passed by.
  sampled({ attempt, step }) {
    const { known } = this;
    if (attempt > known.attempt || (attempt === known.attempt && step >= known.step)) this.previews.add(step, attempt > 1);
  }

  advance({ attempt, step, steps: all, progress, images_per_second: speed, eta_seconds: eta }) {
    const { job } = this;
    if (attempt !== job.attempts || step <= (job.progress.step ?? -1)) return;
    Object.assign(job.progress, { step, steps: all, images_per_second: speed, eta_seconds: eta });
    if (progress != null) job.progress.fraction = progress;
  }

  async act(action) {
    if (action === "cancel" && !(await confirmed("Cancel this job?", "It can be tried again later, from its last checkpoint.", "Cancel it", "Let it run"))) return;
    this.acting = true;
    this.changed();
    try {
      const found = await get(this.job.links[action], { method: "POST" });
      if (found.id !== this.id) {
        toast("Another job goes on from its checkpoint");
        location.hash = `#/train/${found.id}`;
      } else this.job = found;
    } catch (error) {
      complain(error);
    }
    this.acting = false;
    this.changed();
  }

  view() {
    if (!this.job) return html`<h1>Job</h1>${this.error ? html`${problem(this.error)}<p><a href="#/train">To all jobs</a></p>` : waiting("Asking for the job ...")}`;
    const { job } = this;
    const training = job.type === "train";
    return html`<div class="head"><div>
        <p class="small"><a href="#/train">All jobs</a></p>
        <h1 class="break">${TITLES[job.type]} of ${job.result?.ref ?? job.model} ${stateBadge(job.status)}</h1>
        <p>${job.dataset}${training ? `, ${job.preset}` : ""}, queued ${moment(job.created_at)}</p></div>
        <div class="row">${ACTIONS.filter(([action]) => this.allowed(action)).map(([action, label]) => html`<button class=${action === "cancel" ? "danger" : ""}
          ?disabled=${this.acting} @click=${() => this.act(action)}>${label}</button>`)}</div></div>
      ${problem(this.error)}
      ${(this.lost || this.silent) && !OVER.has(job.status) ? html`<p class="notice warn" role="status">The connection to the service is lost. The job goes on without it; this page tries again.</p>` : nothing}
      ${outcome(job, this.aliases, this.changed)}
      ${this.progressView()}
      ${training ? html`<section class="card" aria-labelledby="curves-title"><h2 id="curves-title">Curves</h2>${this.curve.view(OVER.has(job.status))}</section>` : nothing}
      <div class=${training ? "columns" : ""}>
        ${training ? html`<section class="card" aria-labelledby="previews-title"><h2 id="previews-title">Samples as they improve</h2>${this.previews.view(OVER.has(job.status))}</section>` : nothing}
        <section class="card" aria-label="Log">${this.log.view()}</section>
      </div>`;
  }

  allowed(action) {
    const { job } = this;
    if (action === "pause" && (job.status === "paused" || job.pause_requested)) return false;
    return action in job.links && !(action === "cancel" && job.cancel_requested);
  }

  progressView() {
    const { job } = this;
    const part = share(job);
    const over = OVER.has(job.status);
    const elapsed = job.started_at ? ((job.finished_at ? new Date(job.finished_at) : new Date()) - new Date(job.started_at)) / 1000 : null;
    return html`<section class="card" aria-labelledby="progress-title">
      <header><h2 id="progress-title">Progress</h2><span class="faint" role="status">${this.said(part)}</span></header>
      ${over ? nothing : html`<progress aria-label="Progress" max="1" .value=${part ?? 0}></progress>`}
      <div class="tiles">
        ${tile(steps(job), "done")}
        ${tile(over ? null : duration(job.progress.eta_seconds), "ETA")}
        ${tile(duration(elapsed), job.estimate ? `elapsed, ${duration(job.estimate.seconds)} estimated` : "elapsed")}
        ${tile(job.progress.images_per_second == null ? null : whole(job.progress.images_per_second), "images/s")}
        ${tile(job.attempts || null, "attempt")}
        ${tile(job.checkpoint_step == null ? null : `step ${whole(job.checkpoint_step)}`, "checkpoint")}
      </div>
      <details><summary>The request</summary>${facts([
        ["id", html`<code>${job.id}</code>`], ["queue", job.queue], ["device", job.device],
        ...Object.entries(job.parameters).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : String(value)]),
        ["promote", job.promote ? "yes" : null], ["expected memory", job.estimate ? bytes(job.estimate.memory_bytes) : null],
        ["learns", job.estimate ? `${whole(job.estimate.parameters)} parameters` : null],
        ["tries again", job.retry_of ? html`<a href="#/train/${job.retry_of}">${job.retry_of}</a>` : null],
      ])}</details>
    </section>`;
  }

  /** In words, what it is doing. */
  said(part) {
    const { job } = this;
    if (job.cancel_requested && !OVER.has(job.status)) return "cancelling ...";
    if (job.pause_requested && job.status !== "paused") return "pausing: it writes a checkpoint first ...";
    if (job.status === "queued") return job.place_in_line ? `${whole(job.place_in_line)} before it` : "waits for a worker";
    if (job.status === "paused") return "paused; it goes on from its checkpoint";
    if (job.status === "starting") return "starting ...";
    if (job.status === "running") return this.doing || (part == null ? "running" : `${Math.floor(100 * part)} %`);
    return "";
  }
}

function tile(value, label) {
  return value == null || value === "–" ? nothing : html`<div><strong>${value}</strong><span class="small faint">${label}</span></div>`;
}
