// The page of one model: version selection, actions and tabs.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { painter, poll } from "../paint.js";
import { failure, notice, ofFeatures, stateBadge, unfitText, waiting } from "../parts.js";
import { call, hasKey, save } from "../service.js";
import { complain } from "../toast.js";
import { Audit } from "./audit.js";
import { Calibrations } from "./calibrations.js";
import { Card } from "./card.js";
import { Drift, driftText } from "./drift.js";
import { Evaluations } from "./evaluations.js";
import { Limits } from "./limits.js";
import { Overview } from "./overview.js";
import { Subject } from "./subject.js";
import { Versions } from "./versions.js";

const POLL_MS = 5000;
// A panel has `view()`. It may have `start()`, `refresh()`, `back()` (called on return from another page) and `end()`.
const TABS = [
  ["overview", "Overview", Overview],
  ["versions", "Versions", Versions],
  ["calibrations", "Calibrations", Calibrations],
  ["evaluations", "Evaluations", Evaluations],
  ["limit", "Detection limit", Limits],
  ["audit", "Audit", Audit],
  ["drift", "Drift", Drift],
  ["card", "Card", Card],
];
const WITHOUT_DETAIL = "versions";

// The last model is kept with its results while the user visits other pages.
let page = null;

export function showModel(root, ref, tab) {
  if (page?.subject.ref !== ref) {
    page?.dropPanels();
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
    this.refresh();
    const end = poll(POLL_MS, async () => { if (this.subject.loadError?.status !== 401) await this.refresh(); });
    return () => { end(); this.redraw = () => undefined; };
  }

  /** Reloads the model and refreshes the open tab. */
  refresh = async () => {
    const before = this.subject.version;
    await this.subject.load();
    this.loaded = true;
    // If the alias has moved, the panels of the previous version are out of date.
    if (before !== null && before !== this.subject.version) this.dropPanels();
    // A version that cannot be read has one tab only.
    if (this.subject.problem) this.tab = WITHOUT_DETAIL;
    // If the user gave no API key, a refresh would reopen the key dialog.
    if (this.usable && this.panel().error?.status !== 401) await this.panel().refresh?.();
    this.redraw();
  };

  /** Drops all panels except the versions, which hold the last alias move for a rollback. */
  dropPanels() {
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
      const [, , Panel] = TABS.find(([key]) => key === tab);
      const panel = new Panel(this.subject, () => this.redraw(), this.refresh);
      this.panels.set(tab, panel);
      panel.start?.();
    }
    return this.panels.get(tab);
  }

  choose(tab) {
    this.tab = tab;
    // Update the address without leaving the page.
    history.replaceState(null, "", `#/models/${this.subject.ref}/${tab}`);
    this.redraw();
    this.panel().refresh?.();
  }

  view() {
    const { subject } = this;
    if (!this.loaded && !subject.entry) return html`${heading(subject.ref)}${waiting()}`;
    if (!subject.entry && subject.loadError) return html`${heading(subject.ref)}${failure(subject.loadError, this.refresh)}`;
    if (!subject.entry) return html`${heading(subject.ref)}<p class="empty">No model has this name. <a href="#/models">Show all models</a></p>`;
    if (subject.version === null) return html`${heading(subject.ref)}<p class="empty">${subject.name} has no such version or alias.
      <a href="#/models/${subject.name}">Open the live version</a></p>`;
    return html`
      ${this.header()}
      ${subject.loadError ? failure(subject.loadError, this.refresh) : nothing}
      ${notice(subject.problem && `Version ${subject.version} cannot be used: ${subject.problem.message}`, "bad")}
      ${notice(subject.detail?.reason && `Version ${subject.version} cannot be loaded: ${subject.detail.reason}`, "bad")}
      ${notice(subject.entry.state === "unfit" && `${subject.name} has no live version: ${subject.entry.reason}.`, "bad")}
      ${notice(subject.entry.state !== "unfit" && unfitText(subject.detail?.unfit), "bad")}
      ${this.drifting()}
      ${this.tabs()}
      <div class="stack roomy" role="tabpanel" id="panel" aria-labelledby="tab-${this.tab}" tabindex="0">
        ${this.usable ? this.panel().view() : waiting()}</div>`;
  }

  header() {
    const { subject } = this;
    const { versions, aliases } = subject.entry;
    const aliasesOf = (version) => Object.keys(aliases).filter((alias) => aliases[alias] === version);
    return html`<div class="head">
      <div class="stack tight">${heading(subject.name)}
        <div class="row">
          <label for="version">Version</label>
          <select id="version" class="narrow" .value=${live(String(subject.version))} @change=${(event) => this.goTo(event.target.value)}>
            ${[...versions].sort((a, b) => b - a).map((version) => html`<option value=${version} ?selected=${version === subject.version}>${[version, ...aliasesOf(version)].join(" · ")}</option>`)}
          </select>
          ${subject.detail ? stateBadge(subject.detail.state) : nothing}
          ${subject.detail?.read_only ? html`<span class="badge">shipped</span>` : nothing}
        </div></div>
      ${subject.problem || subject.detail?.state === "failed" ? nothing : html`<div class="row">
        ${this.download()}
        ${ofFeatures(subject.detail) ? nothing : html`<a class="button" href="#/samples/${subject.scoring}">Draw samples</a>`}
        <button class="primary" @click=${() => this.score()}>${subject.live || !aliases.live ? "Score images" : `Score with live version ${aliases.live}`}</button>
      </div>`}</div>`;
  }

  /** Renders the download of the artifact. A plain link would not send the API key. */
  download() {
    const path = this.subject.path("/artifact");
    const name = `${this.subject.name}-${this.subject.version}.tar`;
    const fetchAndSave = async () => {
      try {
        save(await (await call(path)).blob(), name);
      } catch (error) {
        complain(error);
      }
    };
    return hasKey() ? html`<button @click=${fetchAndSave}>Download</button>` : html`<a class="button" href=${path} download=${name}>Download</a>`;
  }

  /** Renders the alarm of drift on all tabs; the Drift tab has the details. */
  drifting() {
    const text = driftText(this.subject.detail);
    if (!text) return nothing;
    const show = (event) => { event.preventDefault(); this.choose("drift"); };
    return html`<p class="notice bad">${text} ${this.tab === "drift" ? nothing : html`<a href="#/models/${this.subject.ref}/drift" @click=${show}>Show drift</a>`}</p>`;
  }

  goTo(version) {
    location.hash = `#/models/${this.subject.name}:${version}/${this.tab}`;
  }

  score() {
    sessionStorage.setItem("snf-model", this.subject.scoring);
    location.hash = "#/score";
  }

  tabs() {
    const available = TABS.filter(([key]) => !this.subject.problem || key === WITHOUT_DETAIL);
    const move = (event) => {
      const current = available.findIndex(([key]) => key === this.tab);
      const target = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: -1 }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      const [key] = available.at(target % available.length);
      this.choose(key);
      document.getElementById(`tab-${key}`).focus();
    };
    return html`<div class="tabs" role="tablist" aria-label="Model details" @keydown=${move}>
      ${available.map(([key, label]) => html`<button role="tab" id="tab-${key}" aria-selected=${key === this.tab} aria-controls="panel"
        tabindex=${key === this.tab ? 0 : -1} @click=${() => this.choose(key)}>${label}</button>`)}</div>`;
  }
}

function heading(text) {
  return html`<div class="stack tight"><nav class="small" aria-label="Breadcrumb"><a href="#/models">All models</a></nav><h1 class="break">${text}</h1></div>`;
}
