// The list of datasets, and the contact sheet and report of the selected dataset.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { confirmed } from "../confirm.js";
import { count, shape } from "../format.js";
import { waiting } from "../parts.js";
import { call, get, getAll, picture } from "../service.js";
import { complain, toast } from "../toast.js";
import { problem } from "./messages.js";
import { Reference } from "./reference.js";
import { report } from "./report.js";
import { Upload } from "./upload.js";

const ORIGINS = { "built-in": "built in", stored: "uploaded", reference: "by reference" };

export class Datasets {
  /** `onChoose` is called with the name of the selected dataset. */
  constructor({ changed, onChoose }) {
    Object.assign(this, { changed, onChoose, list: null, chosen: null, detail: null, sheet: null, sheetLoading: false, error: null, deleting: false });
    const usedNames = () => (this.list ?? []).map(({ name }) => name);
    this.upload = new Upload({ changed, usedNames, uploaded: (dataset) => this.added(dataset, "uploaded") });
    this.reference = new Reference({ changed, usedNames, referred: (dataset) => this.added(dataset, "referred to") });
  }

  async load() {
    try {
      this.list = (await getAll("/v1/datasets", "datasets")).sort(newestFirst);
      this.error = null;
      // Only the user knows what to train on: nothing is preselected.
      if (this.chosen && !this.list.some((dataset) => dataset.name === this.chosen && !dataset.problem)) this.clear();
    } catch (error) {
      this.error = error;
    }
    this.changed();
  }

  async added(dataset, how) {
    toast(`${dataset.name} is ${how}: ${count(dataset.images, "image")}`);
    this.list = [dataset, ...(this.list ?? [])];
    await this.choose(dataset.name, dataset);
    this.load();
  }

  clear() {
    if (this.sheet) URL.revokeObjectURL(this.sheet);
    Object.assign(this, { chosen: null, detail: null, sheet: null });
    this.onChoose(null);
  }

  async choose(name, detail = null) {
    if (this.sheet) URL.revokeObjectURL(this.sheet);
    Object.assign(this, { chosen: name, detail, sheet: null, sheetLoading: true });
    this.onChoose(name);
    this.changed();
    try {
      detail ??= await get(`/v1/datasets/${name}`);
      const address = detail.links.contact_sheet;
      const sheet = address ? await picture(address).catch(ignoreMissingRole) : null;
      if (this.chosen === name) Object.assign(this, { detail, sheet });
      else if (sheet) URL.revokeObjectURL(sheet);
    } catch (error) {
      complain(error);
    }
    if (this.chosen === name) this.sheetLoading = false;
    this.changed();
  }

  async remove(name) {
    const isReference = this.list.find((dataset) => dataset.name === name)?.origin === "reference";
    const images = isReference ? "Its images stay where they are." : "All its images are deleted.";
    if (!(await confirmed(`Delete ${name}?`, `${images} Models trained on it are kept.`, "Delete"))) return;
    this.deleting = true;
    this.changed();
    try {
      await call(`/v1/datasets/${name}`, { method: "DELETE" });
      this.list = this.list.filter((dataset) => dataset.name !== name);
      toast(`${name} is deleted`);
      this.clear();
    } catch (error) {
      complain(error);
    }
    this.deleting = false;
    await this.load();
  }

  view() {
    return html`<section class="card" aria-labelledby="dataset-title">
      <h2 id="dataset-title">1. Dataset</h2>
      ${problem(this.error)}
      ${this.list ? this.choice() : this.error ? html`<div><button @click=${() => this.load()}>Try again</button></div>` : waiting("Loading datasets ...")}
      ${this.upload.view()}
      ${this.reference.view()}
      ${this.chosen && this.list ? this.chosenView() : nothing}
    </section>`;
  }

  choice() {
    return html`<fieldset><legend class="sr-only">Dataset</legend><div class="dataset-list">
      ${repeat(this.list, (dataset) => dataset.name, (dataset) => html`<label class=${dataset.problem ? "unusable" : ""}>
        <input type="radio" name="dataset" .checked=${dataset.name === this.chosen} ?disabled=${Boolean(dataset.problem)} @change=${() => this.choose(dataset.name)}>
        <span class="break">${dataset.name}</span>
        <span class="small faint">${dataset.problem ?? html`${count(dataset.images, "image")}, ${dataset.image_shape.length ? shape(dataset.image_shape) : "only to score"}`}</span>
        <span class="small faint origin">${dataset.origin !== "built-in" && dataset.problem ? html`<button type="button" class="link" @click=${() => this.remove(dataset.name)}>delete</button>` : ORIGINS[dataset.origin]}</span>
      </label>`)}
    </div></fieldset>`;
  }

  chosenView() {
    const entry = this.list.find((dataset) => dataset.name === this.chosen);
    if (!entry) return nothing;
    return html`<section class="stack" aria-label="Dataset ${entry.name}">
      <div class="row between"><h3 class="break">${entry.name}</h3>
        ${entry.origin !== "built-in" ? html`<button class="danger" ?disabled=${this.deleting} @click=${() => this.remove(entry.name)}>Delete</button>` : nothing}</div>
      ${report(entry, this.detail?.name === entry.name ? this.detail : null, this.upload.again(entry))}
      ${this.sheet ? html`<figure class="figure"><img class="sheet" src=${this.sheet} alt="Contact sheet of ${entry.name}"><figcaption>Up to 100 evenly spaced images</figcaption></figure>`
        : this.sheetLoading && entry.origin !== "built-in" && entry.image_shape.length ? waiting("Loading contact sheet ...") : nothing}
    </section>`;
  }
}

// Built-in datasets have no creation time and come last.
function newestFirst(a, b) {
  return (b.created ?? "").localeCompare(a.created ?? "");
}

/** Returns null for an error of insufficient role; throws any other error. */
function ignoreMissingRole(error) {
  if (error.type !== "insufficient-role") throw error;
  return null;
}
