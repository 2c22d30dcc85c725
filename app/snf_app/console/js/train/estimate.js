// The estimate of a training, requested again whenever the form changes.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes, count, duration, whole } from "../format.js";
import { smallestRate } from "../attainable.js";
import { facts, notice } from "../parts.js";
import { get, isAbort } from "../service.js";
import { problem } from "./messages.js";

const DEBOUNCE_MS = 350;

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

  async load(request, signal) {
    try {
      const answer = await get("/v1/jobs/estimate", { method: "POST", json: request, signal, patient: true });
      Object.assign(this, { answer, error: null, pending: false });
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
        <div><strong>${duration(estimate?.seconds)}</strong><span class="small faint">time</span></div>
        <div><strong>${bytes(estimate?.memory_bytes)}</strong><span class="small faint">memory</span></div>
      </div>
      ${estimate && estimate.seconds == null ? html`<p class="faint small">Unknown until it runs: no such training has run here.</p>` : nothing}
      ${facts([
        ["queue", `${queue}: ${waiting ? `${count(waiting, "job")} ahead` : "empty"}`],
        ["workers", workers ? `${whole(workers)} running` : null],
        ["smallest alpha", estimate?.smallest_alpha ? `${smallestRate(estimate.smallest_alpha)}; 1 % takes ${whole(estimate.images_for_default)} good images` : null],
      ])}
      ${waitsFor ? notice(`The job ${waitsFor}.`, "warn") : nothing}
      ${estimate?.fits === false ? notice(`Running workers offer at most ${bytes(estimate.available_bytes)} of memory. Use a smaller batch size or preset.`, "warn") : nothing}`;
  }
}
