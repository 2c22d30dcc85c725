// The datasets: which there are, which one is chosen, and that one's contact sheet and report.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { confirmed } from "../confirm.js";
import { count, shape } from "../format.js";
import { waiting } from "../parts.js";
import { call, get, picture } from "../service.js";
import { complain, toast } from "../toast.js";
import { problem } from "./messages.js";
import { report } from "./report.js";
import { Upload } from "./upload.js";

export class Datasets {
  /** `chose` is called with the name of the dataset that is chosen now. */
  constructor({ changed, chose }) {
    Object.assign(this, { changed, chose, list: null, chosen: null, detail: null, sheet: null, error: null, deleting: false });
    this.upload = new Upload({ changed, taken: () => (this.list ?? []).map((one) => one.name), made: (dataset) => this.uploaded(dataset) });
  }

  async load() {
    try {
      this.list = (await get("/v1/datasets")).datasets.sort(newestFirst);
      this.error = null;
      const usable = this.list.filter((one) => !one.problem);
      if (!usable.some((one) => one.name === this.chosen) && usable.length) await this.choose(usable[0].name);
    } catch (error) {
      this.error = error;
    }
    this.changed();
  }

  async uploaded(dataset) {
    toast(`${dataset.name} is uploaded: ${count(dataset.images, "image")}`);
    this.list = [dataset, ...(this.list ?? [])];
    await this.choose(dataset.name, dataset);
    this.load();
  }

  async choose(name, detail = null) {
    if (this.sheet) URL.revokeObjectURL(this.sheet);
    Object.assign(this, { chosen: name, detail, sheet: null });
    this.chose(name);
    this.changed();
    try {
      detail ??= await get(`/v1/datasets/${name}`);
      const address = detail.links.contact_sheet;
      const sheet = address ? await picture(address).catch(withoutRole) : null;
      if (this.chosen === name) Object.assign(this, { detail, sheet });
      else if (sheet) URL.revokeObjectURL(sheet);
    } catch (error) {
      complain(error);
    }
    this.changed();
  }

  async remove(name) {
    if (!(await confirmed(`Delete ${name}?`, "All its images go with it. Models that were trained on it stay.", "Delete it"))) return;
    this.deleting = true;
    this.changed();
    try {
      await call(`/v1/datasets/${name}`, { method: "DELETE" });
      this.list = this.list.filter((one) => one.name !== name);
      toast(`${name} is deleted`);
      this.chosen = null;
    } catch (error) {
      complain(error);
    }
    this.deleting = false;
    await this.load();
  }

  view() {
    return html`<section class="card" aria-labelledby="dataset-title">
      <h2 id="dataset-title">1. Images</h2>
      ${problem(this.error)}
      ${this.list ? this.choice() : this.error ? html`<div><button @click=${() => this.load()}>Ask again</button></div>` : waiting("Asking for the datasets ...")}
      ${this.upload.view()}
      ${this.chosen && this.list ? this.chosenView() : nothing}
    </section>`;
  }

  choice() {
    return html`<fieldset><legend class="sr-only">Dataset</legend><div class="dataset-list">
      ${repeat(this.list, (one) => one.name, (one) => html`<label class=${one.problem ? "unusable" : ""}>
        <input type="radio" name="dataset" .checked=${one.name === this.chosen} ?disabled=${Boolean(one.problem)} @change=${() => this.choose(one.name)}>
        <span class="break">${one.name}</span>
        <span class="small faint">${one.problem ?? html`${count(one.images, "image")}, ${shape(one.image_shape)}`}</span>
        <span class="small faint origin">${one.origin === "stored" ? (one.problem ? html`<button type="button" class="link" @click=${() => this.remove(one.name)}>delete</button>` : "uploaded") : "built in"}</span>
      </label>`)}
    </div></fieldset>`;
  }

  chosenView() {
    const entry = this.list.find((one) => one.name === this.chosen);
    if (!entry) return nothing;
    return html`<section class="stack" aria-label="The dataset ${entry.name}">
      <div class="row between"><h3 class="break">${entry.name}</h3>
        ${entry.origin === "stored" ? html`<button class="danger" ?disabled=${this.deleting} @click=${() => this.remove(entry.name)}>Delete</button>` : nothing}</div>
      ${report(entry, this.detail?.name === entry.name ? this.detail.report : null)}
      ${this.sheet ? html`<figure class="figure"><img class="sheet" src=${this.sheet} alt="Contact sheet of ${entry.name}"><figcaption>Up to 100 of the images, evenly spread</figcaption></figure>`
        : entry.origin === "stored" ? waiting("Asking for the contact sheet ...") : nothing}
    </section>`;
  }
}

// One's own above the built-in ones, which have no time.
function newestFirst(a, b) {
  return (b.created ?? "").localeCompare(a.created ?? "");
}

/** What a key may not see is left out; any other error stays one. */
function withoutRole(error) {
  if (error.type !== "insufficient-role") throw error;
  return null;
}
