// Samples during training. All steps use the same latents, so that they can be compared.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { whole } from "../format.js";
import { get, picture } from "../service.js";
import { complain } from "../toast.js";

export class Previews {
  constructor(job, { changed }) {
    Object.assign(this, { job, changed, steps: [], chosen: null, pictures: new Map() });
  }

  async load(signal) {
    for (const { step } of (await get(`/v1/jobs/${this.job}/samples`, { signal })).samples) this.add(step);
  }

  /** Adds the samples of a step. `reload` replaces those of an earlier attempt. */
  add(step, reload = false) {
    if (reload && this.pictures.has(step)) this.forget(step);
    if (!this.steps.includes(step)) this.steps = [...this.steps, step].sort((a, b) => a - b);
    this.show();
  }

  get shown() {
    return this.chosen ?? this.steps.at(-1) ?? null;
  }

  choose(step) {
    this.chosen = step === this.steps.at(-1) ? null : step; // the newest step is followed
    this.show();
  }

  async show() {
    const step = this.shown;
    if (step !== null && !this.pictures.has(step)) {
      this.pictures.set(step, null);
      try {
        this.pictures.set(step, await picture(`/v1/jobs/${this.job}/samples/${step}`));
      } catch (error) {
        this.pictures.delete(step);
        if (error.status === 404) this.steps = this.steps.filter((other) => other !== step); // deleted by the service
        else complain(error);
      }
    }
    this.changed();
  }

  forget(step) {
    const address = this.pictures.get(step);
    if (address) URL.revokeObjectURL(address);
    this.pictures.delete(step);
  }

  clear() {
    for (const step of [...this.pictures.keys()]) this.forget(step);
  }

  view(finished) {
    const step = this.shown;
    if (step === null) return html`<p class="empty">${finished ? "No samples were saved." : "The first samples appear after the first validation."}</p>`;
    const place = this.steps.indexOf(step);
    // While an image loads, the previous one stays visible.
    const address = this.pictures.get(step) ?? this.steps.slice(0, place).reverse().map((earlier) => this.pictures.get(earlier)).find(Boolean);
    return html`<figure class="figure preview">
      ${address ? html`<img class="pixels" src=${address} alt="Samples at step ${step}">` : html`<div class="pixels blank"></div>`}
      <figcaption>Step ${whole(step)}, ${this.chosen === null ? "the newest" : `${place + 1} of ${this.steps.length}`}</figcaption></figure>
      ${this.steps.length > 1 ? html`<label class="sr-only" for="preview-step">Step of the samples</label>
        <input id="preview-step" type="range" min="0" max=${this.steps.length - 1} step="1" aria-valuetext="step ${step}" .value=${live(String(place))}
          @input=${(event) => this.choose(this.steps[Number(event.target.value)])}>` : nothing}`;
  }
}
