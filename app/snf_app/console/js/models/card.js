// The Card tab: the model card and the samples that are stored with the model.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { unsafeHTML } from "../../vendor/lit-html/directives/unsafe-html.js";
import { failure, notice, ofFeatures, waiting } from "../parts.js";
import { call, picture, save } from "../service.js";
import { complain } from "../toast.js";

export class Card {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.text = this.samples = this.error = this.samplesError = null;
  }

  async start() {
    const noSamples = Promise.resolve(null);
    const [card, samples] = await Promise.allSettled([this.fragment(), this.hasSamples ? picture(this.subject.path("/card/samples")) : noSamples]);
    if (card.status === "fulfilled") this.text = card.value;
    else this.error = card.reason;
    if (samples.status === "fulfilled") this.samples = samples.value;
    else this.samplesError = samples.reason;
    this.redraw();
  }

  /** Loads the text again: a detection limit that was measured since is part of it. */
  async refresh() {
    if (this.text === null) return;
    this.text = await this.fragment().catch(() => this.text);
    this.redraw();
  }

  get hasSamples() {
    return !ofFeatures(this.subject.detail);
  }

  async fragment() {
    const text = await (await call(this.subject.path("/card"), { query: { format: "html" } })).text();
    // The page already has an h1, so the headings of the card move one level down.
    return text.replace(/<(\/?)h([1-5])>/g, (_, slash, level) => `<${slash}h${Number(level) + 1}>`);
  }

  async download() {
    try {
      save(await (await call(this.subject.path("/card"))).blob(), `${this.subject.name}-${this.subject.version}.md`);
    } catch (error) {
      complain(error);
    }
  }

  end() {
    if (this.samples) URL.revokeObjectURL(this.samples);
  }

  view() {
    if (this.error) return failure(this.error, () => { this.error = null; this.start(); });
    if (this.text === null) return waiting();
    return html`<div class=${this.hasSamples ? "columns wide-first" : ""}>
      <section class="card"><header><p class="faint small">Created at the end of training. A detection limit that was measured since is at its end.</p><button @click=${() => this.download()}>Download card.md</button></header>
        <div class="prose">${unsafeHTML(this.text)}</div></section>
      ${this.hasSamples ? html`<section class="card"><h2>Samples</h2>
        ${this.samples ? html`<figure class="figure"><img class="pixels card-samples" src=${this.samples} alt="Samples of ${this.subject.exact}"><figcaption>Sampled at temperature 1 after training.</figcaption></figure>` : nothing}
        ${notice(this.samplesError?.message)}
        <p><a href="#/samples/${this.subject.name}">Draw more samples</a></p></section>` : nothing}
    </div>`;
  }
}
