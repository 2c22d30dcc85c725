// The estimate of a training, requested again whenever the form changes.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes, count, duration, whole } from "../format.js";
import { smallestRate } from "../attainable.js";
import { facts, notice } from "../parts.js";
import { get, isAbort } from "../service.js";
import { problem } from "./messages.js";

const DEBOUNCE_MS = 350;
const RETRY_MS = 1000; // while the work of a training is being counted
const MAX_RETRIES = 10;
const BASIS = {
  "earlier jobs": "earlier trainings here",
  measured: "measured speed of this machine",
  assumed: "rough guess: no training has run here, and the speed of this machine is not measured yet",
  guessed: "guess: the work is still being counted",
};

export class Estimate {
  constructor({ changed }) {
    Object.assign(this, { changed, answer: null, error: null, pending: false, timer: null, stopped: new AbortController() });
  }

  /** Requests an estimate for a training; null clears it because the form is incomplete. */
  update(request) {
    clearTimeout(this.timer);
    this.stopped.abort();
    this.stopped = new AbortController();
    this.pending = request !== null;
    if (request === null) Object.assign(this, { answer: null, error: null });
    else this.timer = setTimeout(() => this.load(request, this.stopped.signal), DEBOUNCE_MS);
    this.changed();
  }

  async load(request, signal, retries = MAX_RETRIES) {
    try {
      const answer = await get("/v1/jobs/estimate", { method: "POST", json: request, signal, patient: true });
      const counting = retries > 0 && answer.estimate?.basis === "guessed";
      Object.assign(this, { answer, error: null, pending: counting });
      if (counting) this.timer = setTimeout(() => this.load(request, signal, retries - 1), RETRY_MS);
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      Object.assign(this, { answer: null, error, pending: false });
    }
    this.changed();
  }

  /** Whether the service would refuse the training as it is. */
  get refused() {
    return this.error?.status === 422;
  }

  view() {
    return html`<section class="stack sunken" aria-label="Estimate" aria-busy=${this.pending}>
      <div class="row between"><h3>Estimate</h3><span class="small faint" role="status">${this.pending ? "estimating ..." : ""}</span></div>
      ${problem(this.error)}
      ${this.answer ? this.numbers() : this.pending || this.error ? nothing : html`<p class="faint small">Complete the form to see an estimate.</p>`}
    </section>`;
  }

  numbers() {
    const { estimate, queue, waiting, workers, waits_for: waitsFor } = this.answer;
    return html`<div class="estimate ${this.pending ? "stale" : ""}">
        <div><strong>${estimate ? duration(estimate.seconds) : "–"}</strong><span class="small faint">time</span></div>
        <div><strong>${bytes(estimate?.memory_bytes)}</strong><span class="small faint">memory</span></div>
        <div><strong>${whole(estimate?.parameters || null)}</strong><span class="small faint">parameters</span></div>
      </div>
      ${facts([
        ["queue", `${queue}: ${waiting ? `${count(waiting, "job")} ahead` : "empty"}`],
        ["workers", workers ? `${whole(workers)} running` : null],
        ["basis", BASIS[estimate?.basis] ?? null],
        ["smallest alpha", estimate?.smallest_alpha ? `${smallestRate(estimate.smallest_alpha)}; 1 % takes ${whole(estimate.images_for_default)} good images` : null],
      ])}
      ${waitsFor ? notice(`The job ${waitsFor}.`, "warn") : nothing}
      ${estimate?.fits === false ? notice(`Running workers offer at most ${bytes(estimate.available_bytes)} of memory. Use a smaller batch size or preset.`, "warn") : nothing}`;
  }
}
