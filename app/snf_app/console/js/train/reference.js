// A form that makes a dataset of images at a location, which stay where they are.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { call, isAbort } from "../service.js";
import { problem } from "./messages.js";
import { wrongName } from "./names.js";

export class Reference {
  /** `usedNames` returns the names in use; `referred` is called with the new dataset. */
  constructor({ changed, usedNames, referred }) {
    Object.assign(this, { changed, usedNames, referred, stopped: null, error: null, open: false });
    this.clear();
  }

  clear() {
    Object.assign(this, { name: "", location: "", column: "", inspect: true });
  }

  async send() {
    if (this.stopped || wrongName(this.name) || !this.location) return;
    this.stopped = new AbortController();
    this.error = null;
    this.changed();
    const { name, location, inspect, column } = this;
    try {
      const answer = await call("/v1/datasets/references", {
        method: "POST", json: { name, location, inspect, ...(column ? { column } : {}) }, signal: this.stopped.signal,
      });
      this.clear();
      this.open = false;
      this.referred(await answer.json());
    } catch (error) {
      if (!isAbort(error)) this.error = error;
    }
    this.stopped = null;
    this.changed();
  }

  view() {
    return html`<details class="sunken" .open=${live(this.open)} @toggle=${(event) => { this.open = event.target.open; }}>
      <summary>Refer to images in a store or folder</summary>
      ${this.stopped ? this.progressView() : this.form()}
    </details>`;
  }

  form() {
    const wrong = this.name ? wrongName(this.name) : null;
    const field = (id, label, property, hint, more = nothing) => html`<div class="field"><label for=${id}>${label}</label>
      <input id=${id} maxlength="2048" spellcheck="false" autocomplete="off" aria-describedby="${id}-hint" aria-invalid=${more !== nothing}
        .value=${live(this[property])} @input=${(event) => { this[property] = event.target.value; this.changed(); }}>
      <small id="${id}-hint" class=${more === nothing ? "" : "wrong"}>${more === nothing ? hint : more}</small></div>`;
    return html`<form class="stack" @submit=${(event) => { event.preventDefault(); this.send(); }}>
      ${problem(this.error)}
      ${field("reference-location", "Location", "location", "s3://bucket/folder or file:///folder, below SNF_ALLOWED_LOCATIONS. Images stay there.")}
      ${field("reference-name", "Name of the reference", "name", this.usedNames().includes(this.name) ? "This name is in use." : "", wrong ?? nothing)}
      ${field("reference-column", "Column of Parquet files", "column", "Empty: found by its type.")}
      <label class="check small"><input type="checkbox" .checked=${live(this.inspect)} @change=${(event) => { this.inspect = event.target.checked; this.changed(); }}> inspect: read every image once, as training needs. Without, it can be scored only.</label>
      <div class="row"><button class="primary" ?disabled=${!this.name || Boolean(wrong) || !this.location}>Refer</button></div>
    </form>`;
  }

  progressView() {
    return html`<div class="row between"><strong class="break" role="status">Indexing ${this.location} ...</strong>
        <button type="button" class="danger" @click=${() => this.stopped.abort()}>Cancel</button></div>
      <progress aria-label="Indexing"></progress>`;
  }
}
