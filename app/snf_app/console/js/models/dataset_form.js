// Dataset selection in forms, and error messages of rejected forms.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { count, shape } from "../format.js";
import { get } from "../service.js";

export class DatasetForm {
  /** `draft` returns the job without its dataset; the service says which datasets the job can take. */
  constructor(redraw, draft) {
    Object.assign(this, { redraw, draft, datasets: null, suggested: null, error: null, requests: 0 });
  }

  async load() {
    const request = (this.requests += 1);
    try {
      const answer = await get("/v1/jobs/check-datasets", { method: "POST", json: this.draft() });
      if (request === this.requests) Object.assign(this, answer, { error: null });
    } catch (error) {
      if (request === this.requests) this.error = error;
    }
    this.redraw();
  }

  /** Returns the dataset called `name` if the job can take it; undefined if not. */
  usable(name) {
    return this.datasets?.find((dataset) => dataset.name === name && !dataset.problem);
  }

  /** Renders a message in place of the selection if there are no datasets; null if there are. */
  unavailable() {
    if (this.error) return html`<p class="notice bad">${this.error.message} <button type="button" class="link" @click=${() => this.load()}>Try again</button></p>`;
    if (!this.datasets) return html`<p class="faint" aria-busy="true">Loading ...</p>`;
    return this.datasets.length ? null : html`<p class="faint">There is no dataset yet. <a href="#/train">Upload a dataset</a>.</p>`;
  }

  /** Returns the datasets: first those that the job can take, then those with a note, then those that it refuses. */
  sorted(problem = (dataset) => dataset.problem) {
    const rank = (dataset) => (problem(dataset) ? 2 : dataset.note ? 1 : 0);
    return [...(this.datasets ?? [])].sort((a, b) => rank(a) - rank(b));
  }

  /** Returns why a job cannot be started with the dataset `name`; null if it can. */
  missing(name, what = "a dataset") {
    if (this.usable(name)) return null;
    if (!this.datasets?.some(({ problem }) => !problem)) return this.datasets ? "No dataset suits this model." : "Loading the datasets ...";
    return `Choose ${what} first.`;
  }

  /** Renders a selection of one dataset; `chosen` is empty until the user has chosen. */
  choice(name, label, chosen, choose) {
    const known = this.usable(chosen);
    return html`<div class="field"><label for=${name}>${label}</label>
      ${this.unavailable() ?? html`<select id=${name} name=${name} required @change=${(event) => choose(event.target.value)}>
        <option value="" .selected=${live(!known)}>choose a dataset</option>
        ${this.sorted().map((dataset) => html`<option value=${dataset.name} ?disabled=${Boolean(dataset.problem)} .selected=${live(dataset === known)}>${described(dataset, dataset.problem)}</option>`)}</select>
        ${known?.note ? html`<small>${known.note}</small>` : nothing}`}</div>`;
  }
}

/** Renders a button that submits a form, with the reason why it is disabled; none if `missing` is null. */
export function submit(label, missing, busy, submitted) {
  return html`<div class="row" role="status"><button class="primary" ?disabled=${busy || Boolean(missing)}>${label}</button>
    ${missing ? html`<span class="small faint">${missing}</span>` : nothing}
    ${submitted ? html`<span>Queued: <a href="#/train/${submitted.id}">follow the job</a></span>` : nothing}</div>`;
}

/** Describes a dataset in a line; with the reason if it cannot be used. */
export function described(dataset, problem) {
  const { name } = dataset;
  if (!problem) return `${name}, ${count(dataset.images, "image")}, ${shape(dataset.image_shape)}`;
  return problem.startsWith(`${name}:`) || problem.startsWith(`${name} `) ? problem : `${name}: ${problem}`;
}

/** Renders the reasons why a job was rejected. */
export function refusal(error) {
  if (!error) return nothing;
  const details = (error.errors ?? []).map((part) => part.detail).filter((detail) => !error.message.includes(detail));
  return html`<p class="notice bad" role="alert">${[error.message, ...details].join("; ")}</p>`;
}
