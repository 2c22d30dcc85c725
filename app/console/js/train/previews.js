// Samples that the flow drew as it learned: the same latents at every step, so that one sees them improve.
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

  /** There is a preview of this step; one of an earlier attempt is drawn anew. */
  add(step, anew = false) {
    if (anew && this.pictures.has(step)) this.forget(step);
    if (!this.steps.includes(step)) this.steps = [...this.steps, step].sort((a, b) => a - b);
    this.show();
  }

  get shown() {
    return this.chosen ?? this.steps.at(-1) ?? null;
  }

  choose(step) {
    this.chosen = step === this.steps.at(-1) ? null : step; // at the end it follows
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
        if (error.status === 404) this.steps = this.steps.filter((one) => one !== step); // no longer kept
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

  view() {
    const step = this.shown;
    if (step === null) return html`<p class="empty">The first samples come with the first validation.</p>`;
    const place = this.steps.indexOf(step);
    // Until a picture is there the one before it stays.
    const address = this.pictures.get(step) ?? this.steps.slice(0, place).reverse().map((one) => this.pictures.get(one)).find(Boolean);
    return html`<figure class="figure preview">
      ${address ? html`<img class="pixels" src=${address} alt="Samples at step ${step}">` : html`<div class="pixels blank"></div>`}
      <figcaption>Step ${whole(step)}, ${this.chosen === null ? "the newest" : `${place + 1} of ${this.steps.length}`}</figcaption></figure>
      ${this.steps.length > 1 ? html`<label class="sr-only" for="preview-step">Step of the samples</label>
        <input id="preview-step" type="range" min="0" max=${this.steps.length - 1} step="1" aria-valuetext="step ${step}" .value=${live(String(place))}
          @input=${(event) => this.choose(this.steps[Number(event.target.value)])}>` : nothing}`;
  }
}
