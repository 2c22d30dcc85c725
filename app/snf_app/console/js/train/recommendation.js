// The comparison of the families of models on the chosen dataset: a button, its progress, the table and the proposal.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, duration, fixed, whole } from "../format.js";
import { notice } from "../parts.js";
import { get, isAbort, pause } from "../service.js";
import { problem } from "./messages.js";
import { share } from "./progress.js";

const POLL_MS = 2000;
const FINISHED = new Set(["succeeded", "failed", "cancelled"]);
const MINUTES = 10;

export class Recommendation {
  /** `adopt` is called with the proposed preset and its parameters. */
  constructor({ changed, adopt }) {
    Object.assign(this, { changed, adopt, dataset: null, job: null, record: null, unfit: null, error: null, sending: false });
  }

  /** Shows the newest comparison on a dataset; null for none. */
  async use(dataset) {
    if (dataset === this.dataset) return;
    Object.assign(this, { dataset, job: null, record: null, unfit: null, error: null });
    if (!dataset) return;
    try {
      const { jobs } = await get("/v1/jobs", { query: { type: "recommend", limit: 50 } });
      const job = jobs.find((known) => known.dataset === dataset && known.status !== "cancelled");
      if (job && dataset === this.dataset && !this.job) await this.take(job);
      // Only who may start a comparison is told whether this dataset can be compared.
      const { datasets } = await get("/v1/jobs/check-datasets", { method: "POST", json: { type: "recommend", parameters: { minutes: MINUTES } } });
      if (dataset === this.dataset) this.unfit = datasets.find(({ name }) => name === dataset)?.problem ?? null;
    } catch {
      // Without the job store or the role no comparison can be started, and the attempt says why.
    }
    this.changed();
  }

  async take(job) {
    this.job = job;
    if (job.status === "succeeded") {
      const record = await get(`/v1/jobs/${job.id}/result`);
      if (job.id === this.job?.id) this.record = record;
    }
  }

  /** Follows an unfinished comparison until `signal` is aborted. */
  async watch(signal) {
    while (!signal.aborted) {
      const { job } = this;
      if (job && !FINISHED.has(job.status) && !document.hidden) {
        try {
          const known = await get(`/v1/jobs/${job.id}`, { signal });
          if (job.id === this.job?.id) await this.take(known);
          this.error = null;
        } catch (error) {
          if (isAbort(error) || error.status === 401) return;
          this.error = error;
        }
        this.changed();
      }
      await pause(POLL_MS, signal).catch(() => undefined);
    }
  }

  async start() {
    const { dataset } = this;
    Object.assign(this, { sending: true, error: null });
    this.changed();
    try {
      const json = { type: "recommend", dataset, parameters: { minutes: MINUTES } };
      const job = await get("/v1/jobs", { method: "POST", json });
      if (dataset === this.dataset) Object.assign(this, { job, record: null });
    } catch (error) {
      if (dataset === this.dataset) this.error = error;
    }
    this.sending = false;
    this.changed();
  }

  view() {
    const { job, record } = this;
    const running = job && !FINISHED.has(job.status);
    return html`<div class="sunken stack small" role="group" aria-label="Which family">
      <div class="row between"><span>Pixels, features or both? A comparison on a part of the images takes about ${MINUTES} minutes.</span>
        <button type="button" ?disabled=${!this.dataset || this.unfit || this.sending || running} @click=${() => this.start()}>${record ? "Compare again" : "Which family?"}</button></div>
      ${this.dataset ? nothing : html`<p class="faint">Choose a dataset first.</p>`}
      ${notice(this.unfit && `The families cannot be compared on ${this.dataset}: ${this.unfit}`, "warn")}
      ${problem(this.error)}
      ${job?.status === "failed" ? notice(`${job.error?.title}: ${job.error?.detail}`, "bad") : nothing}
      ${running ? html`<div class="row"><progress aria-label="Comparison" max="1" .value=${share(job) ?? 0}></progress>
        <span role="status">${job.waits_for ?? (job.progress.eta_seconds == null ? job.status : `${duration(job.progress.eta_seconds)} left`)}</span>
        <a href="#/train/${job.id}">follow the job</a></div>` : nothing}
      ${record ? this.result(record) : nothing}</div>`;
  }

  result(record) {
    return html`${proposal(record)}
      ${record.preset ? html`<div><button type="button" @click=${() => this.adopt(record.preset, record.parameters)}>Use ${record.preset}</button></div>` : nothing}`;
  }
}

/** Renders what each family reached, and the proposal with its reasons. */
export function proposal(record) {
  const { families, reasons, notes, images, alpha } = record;
  const compared = families.filter(({ unavailable }) => !unavailable);
  const left = families.filter(({ unavailable, not_determinable: why }) => unavailable ?? why);
  return html`<p><strong>${record.proposal ? `Proposal: ${record.proposal}` : "No proposal"}</strong></p>
    <ul>${reasons.map((reason) => html`<li>${reason}</li>`)}</ul>
    <div class="scroll" tabindex="0" role="region" aria-label="Families"><table class="rows families"><thead><tr><th>family</th><th class="num">typical limit</th><th class="num">held-out (trivial)</th><th class="num">false alarms</th><th class="num">fit, 1,000 images</th></tr></thead>
      <tbody>${compared.map((family) => html`<tr><th scope="row">${family.family}</th>
        <td class="num" data-label="typical limit">${family.typical_limit ? `${family.typical_limit} pixels` : "–"}</td>
        <td class="num" data-label="held-out (trivial)">${number(family.held_out, 3)} (${number(family.baseline, 3)}) ${family.unit}</td>
        <td class="num" data-label="false alarms">${family.undamaged ? `${family.undamaged.flagged} of ${family.undamaged.images}` : "–"}</td>
        <td class="num" data-label="fit, 1,000 images">${number(family.fit_seconds, 0)} s, ${number(family.seconds_per_1000, 1)} s</td></tr>`)}</tbody></table></div>
    ${limits(compared.filter(({ curves }) => curves.length))}
    ${left.map(({ family, unavailable, not_determinable: why }) => html`<p>${family}: ${unavailable ?? why}</p>`)}
    <p class="faint">Typical limit: the size from which a family finds 90 % of the defects, averaged over their kinds. Smaller is better.</p>
    <p class="faint">${record.not_covered} Bits/dim and nats cannot be compared with each other.</p>
    <p class="faint">${whole(images.fit)} images fitted, defects in ${whole(images.good)} others, all of the train part; false-alarm rate ${brief(100 * alpha)} %.</p>
    ${notes.map((note) => html`<p class="faint">${note}</p>`)}`;
}

function limits(families) {
  if (!families.length) return nothing;
  return html`<details><summary>Detection limits</summary><div class="scroll" tabindex="0" role="region" aria-label="Detection limits"><table class="rows families">
    <thead><tr><th>defect</th>${families.map(({ family }) => html`<th class="num">${family}</th>`)}</tr></thead>
    <tbody>${families[0].curves.map((first, index) => html`<tr><th scope="row">${named(first)}</th>
      ${families.map(({ family, curves }) => html`<td class="num" data-label=${family}>${size(curves[index])}</td>`)}</tr>`)}</tbody></table></div></details>`;
}

const number = (value, digits) => (value == null ? "–" : fixed(value, digits));
const named = ({ shape, contrast }) => `${shape.replace("-", " ")}${contrast == null ? "" : `, ${contrast} grey levels`}`;
const size = ({ limit, cells }) => (limit == null ? `none up to ${cells.at(-1).size}` : `${limit} pixels`);
