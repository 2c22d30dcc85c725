// Dataset selection in forms, and error messages of rejected forms.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { count, shape } from "../format.js";
import { get } from "../service.js";

export class DatasetForm {
  constructor(redraw) {
    this.redraw = redraw;
    this.datasets = this.error = null;
  }

  async load() {
    try {
      this.datasets = (await get("/v1/datasets")).datasets;
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  get any() {
    return Boolean(this.datasets?.length);
  }

  /** Renders a message in place of the selection if there are no datasets; null if there are. */
  unavailable() {
    if (this.error) return html`<p class="notice bad">${this.error.message} <button type="button" class="link" @click=${() => this.load()}>Try again</button></p>`;
    if (!this.datasets) return html`<p class="faint" aria-busy="true">Loading ...</p>`;
    return this.any ? null : html`<p class="faint">There is no dataset yet. <a href="#/train">Upload a dataset</a>.</p>`;
  }

  /** Returns the datasets; those with the image shape of the model come first. */
  sorted(takes) {
    return [...(this.datasets ?? [])].sort((a, b) => fits(b, takes) - fits(a, takes));
  }

  /** Renders a selection of one dataset; `chosen` may be undefined. */
  choice(name, label, takes, chosen, choose) {
    return html`<div class="field"><label for=${name}>${label}</label>
      ${this.unavailable() ?? html`<select id=${name} name=${name} @change=${(event) => choose?.(event.target.value)}>
        ${this.sorted(takes).map((dataset) => html`<option value=${dataset.name} ?selected=${dataset.name === chosen}>${described(dataset, takes)}</option>`)}</select>`}</div>`;
  }
}

/** Returns whether a dataset has the image shape of the model. */
export function fits(dataset, takes) {
  return String(dataset.image_shape) === String(takes);
}

/** Describes a dataset in a line; with its image shape if that differs from the model's. */
export function described(dataset, takes) {
  return `${dataset.name}, ${count(dataset.images, "image")}${fits(dataset, takes) ? "" : `, ${shape(dataset.image_shape)}`}`;
}

/** Renders the reasons why a job was rejected. */
export function refusal(error) {
  if (!error) return nothing;
  const details = (error.errors ?? []).map((part) => part.detail).filter((detail) => !error.message.includes(detail));
  return html`<p class="notice bad" role="alert">${[error.message, ...details].join("; ")}</p>`;
}
