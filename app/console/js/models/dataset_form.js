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
      const answer = await get("/v1/jobs/datasets", { method: "POST", json: this.draft() });
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

  /** Returns the datasets; those that the job can take come first. */
  sorted(problem = (dataset) => dataset.problem) {
    return [...(this.datasets ?? [])].sort((a, b) => Boolean(problem(a)) - Boolean(problem(b)));
  }

  /** Renders a selection of one dataset; `chosen` is empty until the user has chosen. */
  choice(name, label, chosen, choose) {
    const known = this.usable(chosen);
    return html`<div class="field"><label for=${name}>${label}</label>
      ${this.unavailable() ?? html`<select id=${name} name=${name} required .value=${live(known ? chosen : "")} @change=${(event) => choose(event.target.value)}>
        <option value="">choose a dataset</option>
        ${this.sorted().map((dataset) => html`<option value=${dataset.name} ?disabled=${Boolean(dataset.problem)} ?selected=${dataset === known}>${described(dataset, dataset.problem)}</option>`)}</select>
        ${known?.note ? html`<small>${known.note}</small>` : nothing}`}</div>`;
  }
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
