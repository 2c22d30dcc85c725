// Choices of datasets in forms, and what the service has against what was chosen.
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

  /** What stands in place of a choice where there is nothing to choose from; null where there is. */
  missing() {
    if (this.error) return html`<p class="notice bad">${this.error.message} <button type="button" class="link" @click=${() => this.load()}>Try again</button></p>`;
    if (!this.datasets) return html`<p class="faint" aria-busy="true">Loading ...</p>`;
    return this.any ? null : html`<p class="faint">There is no dataset yet. <a href="#/train">Upload one</a>.</p>`;
  }

  /** Those of the shape that the model takes first. */
  sorted(takes) {
    return [...(this.datasets ?? [])].sort((a, b) => fits(b, takes) - fits(a, takes));
  }

  /** A choice of one; `chosen` may be undefined. */
  choice(name, label, takes, chosen, choose) {
    return html`<div class="field"><label for=${name}>${label}</label>
      ${this.missing() ?? html`<select id=${name} name=${name} @change=${(event) => choose?.(event.target.value)}>
        ${this.sorted(takes).map((one) => html`<option value=${one.name} ?selected=${one.name === chosen}>${described(one, takes)}</option>`)}</select>`}</div>`;
  }
}

/** Whether a dataset has images as a model takes them. */
export function fits(dataset, takes) {
  return String(dataset.image_shape) === String(takes);
}

/** A dataset in a line; its shape where that is another one than the model's. */
export function described(dataset, takes) {
  return `${dataset.name}, ${count(dataset.images, "image")}${fits(dataset, takes) ? "" : `, ${shape(dataset.image_shape)}`}`;
}

/** Why a job was not queued. */
export function refusal(error) {
  if (!error) return nothing;
  const more = (error.errors ?? []).map((one) => one.detail).filter((one) => !error.message.includes(one));
  return html`<p class="notice bad" role="alert">${[error.message, ...more].join("; ")}</p>`;
}
