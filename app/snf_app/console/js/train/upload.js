// Upload of a dataset: file selection, name and progress.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { bytes, count, duration } from "../format.js";
import { dropped, isNoImage, named, unreadable } from "../score/intake.js";
import { isAbort, upload } from "../service.js";
import { problem } from "./messages.js";
import { nameFrom, wrongName } from "./names.js";

const SPEED_WINDOW_MS = 4000;

export class Upload {
  /** `usedNames` returns the names in use; `uploaded` is called with the new dataset. */
  constructor({ changed, usedNames, uploaded }) {
    Object.assign(this, { changed, usedNames, uploaded, files: [], name: "", different: false, sending: null, error: null, over: false });
    this.sent = null; // name, date and files of the dataset that was uploaded last
  }

  /** Offers files for an upload. `called` is the wished name of the dataset, by default that of the folder or the file. */
  take(files, called = null) {
    if (this.sending || !files.length) return;
    const [{ name, file }] = files;
    const folder = name.includes("/") ? name.split("/")[0] : null;
    Object.assign(this, { files, different: false, error: null, name: nameFrom(called ?? folder ?? (files.length === 1 ? file.name : "images"), this.usedNames()) });
    this.changed();
  }

  /** Returns a function that offers to upload the files of a dataset again without near duplicates; null without them. */
  again({ name, created }) {
    if (this.sent?.name !== name || this.sent.created !== created || this.sending) return null;
    const { files } = this.sent;
    return () => {
      this.take(files, name);
      this.different = true;
      requestAnimationFrame(() => document.getElementById("dataset-name")?.focus()); // after the redraw
    };
  }

  get size() {
    return this.files.reduce((sum, { file }) => sum + file.size, 0);
  }

  clear() {
    Object.assign(this, { files: [], error: null });
    this.changed();
  }

  async send() {
    if (wrongName(this.name) || this.sending) return;
    const form = new FormData();
    form.append("name", this.name);
    if (this.different) form.append("near_duplicates", "drop");
    // The folders in a file name become the group of the image.
    // Files of folders whose names are no images' are counted by the service; their content is not sent.
    for (const { file, name } of this.files) form.append("file", name.includes("/") && isNoImage(name) ? new Blob([]) : file, name);
    const stopped = new AbortController();
    this.error = null;
    this.sending = { stopped, sent: 0, total: this.size, marks: [[performance.now(), 0]] };
    this.changed();
    try {
      const dataset = await upload("/v1/datasets", form, { progress: (sent, total) => this.progress(sent, total), signal: stopped.signal });
      this.sent = { name: dataset.name, created: dataset.created, files: this.files };
      this.files = [];
      this.uploaded(dataset);
    } catch (error) {
      if (!isAbort(error)) this.error = (error.type === "unreachable" && (await unreadable(this.files))) || error;
    }
    this.sending = null;
    this.changed();
  }

  progress(sent, total) {
    if (!this.sending) return;
    const now = performance.now();
    const { marks } = this.sending;
    marks.push([now, sent]);
    while (marks.length > 2 && now - marks[0][0] > SPEED_WINDOW_MS) marks.shift();
    Object.assign(this.sending, { sent, total });
    this.changed();
  }

  /** The current speed in bytes per second; null until it is measured. */
  get speed() {
    const [[from, first], [to, last]] = [this.sending.marks[0], this.sending.marks.at(-1)];
    return to > from ? (1000 * (last - first)) / (to - from) : null;
  }

  view() {
    if (this.sending) return this.progressView();
    return this.files.length ? this.chosenView() : this.emptyView();
  }

  emptyView() {
    const chosen = (event) => { this.take(named([...event.target.files])); event.target.value = ""; };
    return html`<section class="drop small-drop ${this.over ? "over" : ""}" aria-label="Upload a dataset">
      <p><strong>Drop normal images here</strong>: files, a folder, a zip or tar, an .npz or .npy</p>
      <div class="row">
        <label class="button">choose files<input class="sr-only" type="file" multiple @change=${chosen}></label>
        <label class="button">choose a folder<input class="sr-only" type="file" webkitdirectory @change=${chosen}></label>
      </div>
    </section>`;
  }

  chosenView() {
    const wrong = wrongName(this.name);
    return html`<section class="stack sunken" aria-label="Upload a dataset">
      <p class="break"><strong>${this.files.length === 1 ? this.files[0].name : count(this.files.length, "file")}</strong>, ${bytes(this.size)}</p>
      ${problem(this.error)}
      <form class="stack" @submit=${(event) => { event.preventDefault(); this.send(); }}>
        <div class="field"><label for="dataset-name">Name of the dataset</label>
          <input id="dataset-name" maxlength="64" spellcheck="false" autocomplete="off" aria-invalid=${Boolean(wrong)} aria-describedby="dataset-name-wrong"
            .value=${live(this.name)} @input=${(event) => { this.name = event.target.value; this.changed(); }}>
          <small id="dataset-name-wrong" class=${wrong ? "wrong" : ""}>${wrong ?? (this.usedNames().includes(this.name) ? "This name is in use. Choose another name, or delete that dataset first." : "")}</small></div>
        <label class="check small"><input type="checkbox" .checked=${live(this.different)} @change=${(event) => { this.different = event.target.checked; this.changed(); }}> leave out near duplicates: keep the first of images that are alike</label>
        <div class="row"><button class="primary" ?disabled=${Boolean(wrong)}>Upload</button>
          <button type="button" class="quiet" @click=${() => this.clear()}>Choose other files</button></div>
      </form>
    </section>`;
  }

  progressView() {
    const { sent, total, stopped } = this.sending;
    const isSent = sent >= total;
    const left = this.speed ? (total - sent) / this.speed : null;
    return html`<section class="stack sunken" aria-label="Upload a dataset">
      <div class="row between"><strong class="break" role="status">${isSent ? "Checking the images ..." : `Uploading ${this.name}`}</strong>
        <button class="danger" @click=${() => stopped.abort()}>Cancel</button></div>
      ${isSent ? html`<progress aria-label="Check of the images"></progress>` : html`<progress aria-label="Upload" max=${total} .value=${sent}></progress>`}
      <p class="small faint">${bytes(sent)} of ${bytes(total)}${isSent || !this.speed ? nothing : html`, ${bytes(Math.round(this.speed))}/s, ${duration(left)} left`}</p>
    </section>`;
  }

  /** Accepts drops anywhere on the page. Returns a function that removes the listeners. */
  listen() {
    const setOver = (over) => { if (this.over !== over) { this.over = over; this.changed(); } };
    const listeners = {
      dragover: (event) => { event.preventDefault(); setOver(true); },
      dragleave: (event) => { if (!event.relatedTarget) setOver(false); },
      drop: async (event) => { event.preventDefault(); setOver(false); this.take(await dropped(event.dataTransfer)); },
    };
    for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
    return () => { for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener); };
  }
}
