// The page of one job, updated live.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { confirmed } from "../confirm.js";
import { follow } from "../events.js";
import { bytes, count, duration, moment, setting, whole } from "../format.js";
import { facts, stateBadge, waiting } from "../parts.js";
import { call, get, isAbort, pause } from "../service.js";
import { complain, toast } from "../toast.js";
import { Curve } from "./curve.js";
import { Log } from "./log.js";
import { problem } from "./messages.js";
import { aliasesOf, outcome } from "./outcome.js";
import { Previews } from "./previews.js";
import { share, steps } from "./progress.js";

const POINTS = 1000;
const POLL_MS = 3000;
const FINISHED = new Set(["succeeded", "partial", "failed", "cancelled"]);
const TITLES = { train: "Training", score: "Scoring", calibrate: "Calibration", evaluate: "Evaluation", limit: "Detection limit", recommend: "Comparison of families" };
const ACTIONS = [["pause", "Pause"], ["resume", "Resume"], ["cancel", "Cancel"], ["retry", "Try again"], ["delete", "Delete"]];
const DANGEROUS = new Set(["cancel", "delete"]);

export class Job {
  constructor(id, { changed }) {
    Object.assign(this, { id, changed, job: null, error: null, disconnected: false, unreachable: false, aliases: null, activity: "", acting: false });
    this.curve = new Curve();
    this.previews = new Previews(id, { changed });
    this.log = new Log(id, { changed });
  }

  /** Follows the job until it ends or `signal` is aborted. */
  async watch(signal) {
    this.signal = signal;
    signal.addEventListener("abort", () => this.previews.clear());
    try {
      await this.load();
      if (this.job.type === "train") {
        this.curve.begin(await get(`/v1/jobs/${this.id}/metrics`, { query: { points: POINTS }, signal }));
        this.loadedUntil = this.curve.validation.newest;
        await this.previews.load(signal);
      }
      this.changed();
      this.poll();
      await follow(this.id, { onEvent: (event) => this.handle(event), onConnection: (connected) => { this.disconnected = !connected; this.changed(); }, signal });
      await this.load();
      await this.log.load(signal);
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      this.error = error;
      this.changed();
    }
  }

  async load() {
    const job = await get(`/v1/jobs/${this.id}`, { signal: this.signal });
    try {
      // The links of a finished training depend on whether its version is live.
      if (job.status === "succeeded" && job.type === "train" && !this.aliases) this.aliases = await aliasesOf(job, this.signal);
    } finally {
      this.job = job;
      this.changed();
    }
  }

  // Events do not include the process output, the place in the queue or the elapsed time, so these are polled.
  async poll() {
    while (!this.signal.aborted && !FINISHED.has(this.job.status)) {
      try {
        if (!document.hidden) await Promise.all([this.load(), this.log.load(this.signal)]);
        this.unreachable = false;
      } catch (error) {
        if (isAbort(error) || error.status === 401) return; // without an API key, polling would reopen the key dialog
        this.unreachable = true;
      }
      this.changed();
      await pause(POLL_MS, this.signal).catch(() => undefined);
    }
  }

  handle(event) {
    const { kind, data } = event;
    this.log.add(event);
    if (kind === "metrics") {
      this.curve.training.add(data);
      this.activity = "";
      this.advance(data);
    } else if (kind === "validation") this.curve.validation.add(data);
    else if (kind === "samples") this.sampled(data);
    else if (kind === "scoring") this.evaluate(data);
    else if (kind === "log") this.activity = data.message;
    this.changed();
  }

  // The event stream starts at the first event; samples that are already loaded are skipped.
  sampled({ attempt, step }) {
    const { loadedUntil } = this;
    if (attempt > loadedUntil.attempt || (attempt === loadedUntil.attempt && step >= loadedUntil.step)) this.previews.add(step, attempt > 1);
  }

  advance({ attempt, step, steps: all, progress, images_per_second: speed, eta_seconds: eta }) {
    const { job } = this;
    if (attempt !== job.attempts || step <= (job.progress.step ?? -1)) return;
    Object.assign(job.progress, { step, steps: all, images_per_second: speed, eta_seconds: eta });
    if (progress != null) job.progress.fraction = progress;
  }

  evaluate({ attempt, part, done, images, progress, eta_seconds: eta }) {
    this.activity = `${part}: ${whole(done)} of ${whole(images)} images`;
    if (progress != null && attempt === this.job.attempts) Object.assign(this.job.progress, { fraction: progress, eta_seconds: eta });
  }

  async act(action) {
    if (action === "cancel" && !(await confirmed("Cancel this job?", "You can try it again later from its last checkpoint.", "Cancel job", "Keep running"))) return;
    if (action === "delete" && !(await confirmed("Delete this job?", "Its result, log and files are deleted. A model that it made is kept, and the record of a training under Runs.", "Delete job"))) return;
    this.acting = true;
    this.changed();
    try {
      if (action === "delete") {
        await call(this.job.links.delete, { method: "DELETE" });
        toast("The job is deleted");
        location.hash = "#/train";
        return;
      }
      const job = await get(this.job.links[action], { method: "POST" });
      if (job.id !== this.id) {
        toast("A new job continues from the checkpoint");
        location.hash = `#/train/${job.id}`;
      } else this.job = job;
    } catch (error) {
      complain(error);
    }
    this.acting = false;
    this.changed();
  }

  view() {
    if (!this.job) return html`<h1>Job</h1>${this.error ? html`${problem(this.error)}<p><a href="#/train">All jobs</a></p>` : waiting("Loading job ...")}`;
    const { job } = this;
    const training = job.type === "train";
    const curves = training && !this.curve.closedForm;
    return html`<div class="head"><div>
        <p class="small"><a href="#/train">All jobs</a></p>
        <h1 class="break">${TITLES[job.type]}${job.model ? ` of ${job.result?.ref ?? job.model}` : ""} ${stateBadge(job.status)}</h1>
        <p>${job.dataset}${training ? `, ${job.preset}` : ""}, queued ${moment(job.created_at)}</p></div>
        <div class="row">${ACTIONS.filter(([action]) => this.allowed(action)).map(([action, label]) => html`<button class=${DANGEROUS.has(action) ? "danger" : ""}
          ?disabled=${this.acting} @click=${() => this.act(action)}>${label}</button>`)}</div></div>
      ${problem(this.error)}
      ${(this.disconnected || this.unreachable) && !FINISHED.has(job.status) ? html`<p class="notice warn" role="status">The connection to the service is lost. The job continues; this page reconnects automatically.</p>` : nothing}
      ${outcome(job, this.aliases, this.changed)}
      ${this.progressView()}
      ${curves ? html`<section class="card" aria-labelledby="curves-title"><header><h2 id="curves-title">Curves</h2>${this.curve.empty ? nothing : html`<a href="#/runs/${job.id}">Compare with other runs</a>`}</header>${this.curve.view(FINISHED.has(job.status))}</section>` : nothing}
      <div class=${curves ? "columns" : ""}>
        ${curves ? html`<section class="card" aria-labelledby="previews-title"><h2 id="previews-title">Samples during training</h2>${this.previews.view(FINISHED.has(job.status))}</section>` : nothing}
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
    const done = share(job);
    const finished = FINISHED.has(job.status);
    const elapsed = job.started_at ? ((job.finished_at ? new Date(job.finished_at) : new Date()) - new Date(job.started_at)) / 1000 : null;
    return html`<section class="card" aria-labelledby="progress-title">
      <header><h2 id="progress-title">Progress</h2><span class="faint" role="status">${this.statusText(done)}</span></header>
      ${finished ? nothing : html`<progress aria-label="Progress" max="1" .value=${done ?? 0}></progress>`}
      <div class="tiles">
        ${tile(steps(job), "done")}
        ${tile(finished ? null : duration(job.progress.eta_seconds), "ETA")}
        ${tile(duration(elapsed), job.estimate?.seconds ? `elapsed, ${duration(job.estimate.seconds)} estimated` : "elapsed")}
        ${tile(job.progress.images_per_second == null ? null : whole(job.progress.images_per_second), "images/s")}
        ${tile(job.attempts || null, "attempt")}
        ${tile(job.checkpoint_step == null ? null : `step ${whole(job.checkpoint_step)}`, "checkpoint")}
      </div>
      <details><summary>Job details</summary>${facts([
        ["id", html`<code>${job.id}</code>`], ["queue", job.queue], ["device", job.device],
        ...Object.entries(job.parameters).map(([name, value]) => [name.replaceAll("_", " "), setting(value)]),
        ["promote", job.promote ? "yes" : null], ["expected memory", job.estimate?.memory_bytes ? bytes(job.estimate.memory_bytes) : null],
        ["retry of", job.retry_of ? html`<a href="#/train/${job.retry_of}">${job.retry_of}</a>` : null],
      ])}</details>
    </section>`;
  }

  /** Describes the current activity. */
  statusText(done) {
    const { job } = this;
    if (job.cancel_requested && !FINISHED.has(job.status)) return "cancelling ...";
    if (job.pause_requested && job.status !== "paused") return "writing a checkpoint before the pause ...";
    if (job.status === "queued" && job.waits_for) return job.waits_for;
    if (job.status === "queued") return job.place_in_line ? `${count(job.place_in_line, "job")} ahead` : "waiting for a worker";
    if (job.status === "paused") return "paused; resume to continue from the checkpoint";
    if (job.status === "starting") return "starting ...";
    if (job.status === "running") return this.activity || (done == null ? "running" : `${Math.floor(100 * done)} %`);
    return "";
  }
}

function tile(value, label) {
  return value == null || value === "–" ? nothing : html`<div><strong>${value}</strong><span class="small faint">${label}</span></div>`;
}
