// What the service expects of the training that the form describes, asked for whenever that has changed.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes, count, duration, whole } from "../format.js";
import { facts, notice } from "../parts.js";
import { get, isAbort } from "../service.js";
import { problem } from "./messages.js";

const SETTLED_MS = 350;
const COUNTED_MS = 1000;
const MOST_ASKED = 10;
const BASIS = {
  "earlier jobs": "by trainings that ran here",
  measured: "by the measured speed of this machine",
  assumed: "a rough guess: no training has run here, and the speed of this machine is not measured yet",
  guessed: "a guess: the work is still being counted",
};

export class Estimate {
  constructor({ changed }) {
    Object.assign(this, { changed, found: null, error: null, asking: false, timer: null, stopped: new AbortController() });
  }

  /** Asks about another request; null where the form knows by itself that it is wrong. */
  about(request) {
    clearTimeout(this.timer);
    this.stopped.abort();
    this.stopped = new AbortController();
    this.asking = request !== null;
    if (request === null) Object.assign(this, { found: null, error: null });
    else this.timer = setTimeout(() => this.ask(request, this.stopped.signal), SETTLED_MS);
    this.changed();
  }

  async ask(request, signal, left = MOST_ASKED) {
    try {
      const found = await get("/v1/jobs/estimate", { method: "POST", json: request, signal, patient: true });
      const counting = left > 0 && found.estimate?.basis === "guessed";
      Object.assign(this, { found, error: null, asking: counting });
      if (counting) this.timer = setTimeout(() => this.ask(request, signal, left - 1), COUNTED_MS);
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      Object.assign(this, { found: null, error, asking: false });
    }
    this.changed();
  }

  view() {
    return html`<section class="stack sunken" aria-label="Estimate" aria-busy=${this.asking}>
      <div class="row between"><h3>What it will take</h3><span class="small faint" role="status">${this.asking ? "estimating ..." : ""}</span></div>
      ${problem(this.error)}
      ${this.found ? this.numbers() : this.asking || this.error ? nothing : html`<p class="faint small">The estimate comes once the form is complete.</p>`}
    </section>`;
  }

  numbers() {
    const { estimate, queue, waiting, workers } = this.found;
    return html`<div class="estimate ${this.asking ? "stale" : ""}">
        <div><strong>${estimate ? duration(estimate.seconds) : "–"}</strong><span class="small faint">time</span></div>
        <div><strong>${bytes(estimate?.memory_bytes)}</strong><span class="small faint">memory</span></div>
        <div><strong>${whole(estimate?.parameters || null)}</strong><span class="small faint">parameters</span></div>
      </div>
      ${facts([
        ["queue", `${queue}: ${waiting ? `${count(waiting, "job")} before it` : "nobody waits"}`],
        ["workers", workers ? `${whole(workers)} running` : null],
        ["time is", BASIS[estimate?.basis] ?? null],
      ])}
      ${workers ? nothing : notice(`No worker that is running serves ${queue}: the job would wait until one starts.`, "warn")}
      ${estimate?.fits === false ? notice(`No running worker gives a training more than ${bytes(estimate.available_bytes)}: a smaller batch size or preset needs less.`, "warn") : nothing}`;
  }
}
