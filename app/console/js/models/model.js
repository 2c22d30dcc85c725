// The page of one model: what it is called, which version is looked at, and tabs with all that is known of it.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { everyNowAndThen, painter } from "../paint.js";
import { failure, notice, stateBadge, waiting } from "../parts.js";
import { call, hasKey, save } from "../service.js";
import { complain } from "../toast.js";
import { Audit } from "./audit.js";
import { Calibrations } from "./calibrations.js";
import { Card } from "./card.js";
import { Drift } from "./drift.js";
import { Evaluations } from "./evaluations.js";
import { Overview } from "./overview.js";
import { Subject } from "./subject.js";
import { Versions } from "./versions.js";

const LOOK_MS = 5000;
// A tab's panel has `view()`, and may have `start()`, `refresh()`, `back()` after other pages were visited, and `end()`.
const TABS = [
  ["overview", "Overview", Overview],
  ["versions", "Versions", Versions],
  ["calibrations", "Calibrations", Calibrations],
  ["evaluations", "Evaluations", Evaluations],
  ["audit", "Audit", Audit],
  ["drift", "Drift", Drift],
  ["card", "Card", Card],
];
const WITHOUT_DETAIL = "versions";

// The model that was looked at last is kept, with its results, while other pages are visited.
let page = null;

export function showModel(root, ref, tab) {
  if (page?.subject.ref !== ref) {
    page?.forget();
    page = new Page(ref);
  }
  return page.mount(root, tab);
}

class Page {
  constructor(ref) {
    this.subject = new Subject(ref);
    this.panels = new Map();
    this.tab = TABS[0][0];
    this.loaded = false;
    this.redraw = () => undefined;
  }

  mount(root, tab) {
    if (TABS.some(([key]) => key === tab)) this.tab = tab;
    document.title = `${this.subject.ref} · snf density`;
    this.redraw = painter(root, () => this.view());
    for (const panel of this.panels.values()) panel.back?.();
    this.look();
    const end = everyNowAndThen(LOOK_MS, async () => { if (this.subject.lost?.status !== 401) await this.look(); });
    return () => { end(); this.redraw = () => undefined; };
  }

  /** Learns how the model stands, and lets the open tab do so. */
  look = async () => {
    const before = this.subject.version;
    await this.subject.load();
    this.loaded = true;
    // An alias that moved: what was known of the version before is not shown for this one.
    if (before !== null && before !== this.subject.version) this.forget();
    // Of a version that cannot be read there is only one tab to open.
    if (this.subject.problem) this.tab = WITHOUT_DETAIL;
    // A key that was not given is not asked for again and again.
    if (this.usable && this.panel().error?.status !== 401) await this.panel().refresh?.();
    this.redraw();
  };

  /** Drops what is known of the version; the last move of an alias can still be put back. */
  forget() {
    for (const [key, panel] of this.panels) {
      if (key === WITHOUT_DETAIL) continue;
      panel.end?.();
      this.panels.delete(key);
    }
  }

  get usable() {
    return this.subject.version !== null && (this.subject.detail !== null || this.tab === WITHOUT_DETAIL);
  }

  panel() {
    const { tab } = this;
    if (!this.panels.has(tab)) {
      const [, , Kind] = TABS.find(([key]) => key === tab);
      const made = new Kind(this.subject, () => this.redraw(), this.look);
      this.panels.set(tab, made);
      made.start?.();
    }
    return this.panels.get(tab);
  }

  choose(tab) {
    this.tab = tab;
    // Linkable, yet no visit to another page.
    history.replaceState(null, "", `#/models/${this.subject.ref}/${tab}`);
    this.redraw();
    this.panel().refresh?.();
  }

  view() {
    const { subject } = this;
    if (!this.loaded && !subject.entry) return html`${heading(subject.ref)}${waiting()}`;
    if (!subject.entry && subject.lost) return html`${heading(subject.ref)}${failure(subject.lost, this.look)}`;
    if (!subject.entry) return html`${heading(subject.ref)}<p class="empty">There is no model of this name. <a href="#/models">All models</a></p>`;
    if (subject.version === null) return html`${heading(subject.ref)}<p class="empty">${subject.name} has no such version or alias.
      <a href="#/models/${subject.name}">Go to its live version</a></p>`;
    return html`
      ${this.header()}
      ${subject.lost ? failure(subject.lost, this.look) : nothing}
      ${notice(subject.problem && `Version ${subject.version} cannot be used: ${subject.problem.message}`, "bad")}
      ${notice(subject.detail?.reason && `Version ${subject.version} cannot be loaded: ${subject.detail.reason}`, "bad")}
      ${this.tabs()}
      <div class="stack roomy" role="tabpanel" id="panel" aria-labelledby="tab-${this.tab}" tabindex="0">
        ${this.usable ? this.panel().view() : waiting()}</div>`;
  }

  header() {
    const { subject } = this;
    const { versions, aliases } = subject.entry;
    const named = (version) => Object.keys(aliases).filter((alias) => aliases[alias] === version);
    return html`<div class="head">
      <div class="stack tight">${heading(subject.name)}
        <div class="row">
          <label for="version">Version</label>
          <select id="version" class="narrow" .value=${live(String(subject.version))} @change=${(event) => this.goTo(event.target.value)}>
            ${[...versions].sort((a, b) => b - a).map((one) => html`<option value=${one} ?selected=${one === subject.version}>${[one, ...named(one)].join(" · ")}</option>`)}
          </select>
          ${subject.detail ? stateBadge(subject.detail.state) : nothing}
          ${subject.detail?.read_only ? html`<span class="badge">shipped</span>` : nothing}
        </div></div>
      ${subject.problem || subject.detail?.state === "failed" ? nothing : html`<div class="row">
        ${this.download()}
        <a class="button" href="#/samples/${subject.name}">Draw samples</a>
        <button class="primary" @click=${() => this.score()}>${subject.live ? "Score with it" : `Score with version ${aliases.live}, the live one`}</button>
      </div>`}</div>`;
  }

  /** Its files as one. A link alone carries no key. */
  download() {
    const path = this.subject.path("/artifact");
    const name = `${this.subject.name}-${this.subject.version}.tar`;
    const fetched = async () => {
      try {
        save(await (await call(path)).blob(), name);
      } catch (error) {
        complain(error);
      }
    };
    return hasKey() ? html`<button @click=${fetched}>Download</button>` : html`<a class="button" href=${path} download=${name}>Download</a>`;
  }

  goTo(version) {
    location.hash = `#/models/${this.subject.name}:${version}/${this.tab}`;
  }

  score() {
    sessionStorage.setItem("snf-model", this.subject.name);
    location.hash = "#/score";
  }

  tabs() {
    const known = TABS.filter(([key]) => !this.subject.problem || key === WITHOUT_DETAIL);
    const move = (event) => {
      const at = known.findIndex(([key]) => key === this.tab);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const [key] = known.at(to % known.length);
      this.choose(key);
      document.getElementById(`tab-${key}`).focus();
    };
    return html`<div class="tabs" role="tablist" aria-label="About this model" @keydown=${move}>
      ${known.map(([key, label]) => html`<button role="tab" id="tab-${key}" aria-selected=${key === this.tab} aria-controls="panel"
        tabindex=${key === this.tab ? 0 : -1} @click=${() => this.choose(key)}>${label}</button>`)}</div>`;
  }
}

function heading(text) {
  return html`<div class="stack tight"><nav class="small" aria-label="Way back"><a href="#/models">All models</a></nav><h1 class="break">${text}</h1></div>`;
}
