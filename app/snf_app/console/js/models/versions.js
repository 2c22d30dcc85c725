// The Versions tab: lists and deletes versions; adds, moves and removes aliases.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { confirmed } from "../confirm.js";
import { fixed, moment } from "../format.js";
import { call, get } from "../service.js";
import { unfitText } from "../parts.js";
import { complain, toast } from "../toast.js";

const LIVE = "live";
const PAGE_SIZE = 20;
const MAX_IN_FLIGHT = 4;
const ALIAS = "[a-z0-9][a-z0-9._\\-]{0,63}";

export class Versions {
  constructor(subject, redraw, reload) {
    [this.subject, this.redraw, this.reload] = [subject, redraw, reload];
    this.details = new Map(); // version -> detail, error, or null while it loads
    this.shown = PAGE_SIZE;
    this.moved = null; // the last alias move, for a rollback
    this.busy = false;
  }

  /** Loads the details of the visible versions once; versions never change. */
  async refresh() {
    const missing = this.listed().filter((version) => !this.details.has(version));
    for (const version of missing) this.details.set(version, null);
    const work = async () => {
      for (let version = missing.shift(); version !== undefined; version = missing.shift()) {
        const detail = await get(`/v1/models/${this.subject.name}:${version}`).catch((error) => error);
        // Only a damaged version (500) keeps its error; others are loaded again at the next refresh.
        if (detail instanceof Error && detail.status !== 500) this.details.delete(version);
        else this.details.set(version, detail);
        this.redraw();
      }
    };
    await Promise.all(Array.from({ length: MAX_IN_FLIGHT }, work));
  }

  listed() {
    return [...this.subject.entry.versions].sort((a, b) => b - a).slice(0, this.shown);
  }

  /** Makes one change at a time and reloads the model afterwards. */
  async change(work) {
    if (this.busy) return;
    this.busy = true;
    try {
      await work();
      await this.reload();
    } catch (error) {
      complain(error);
    }
    this.busy = false;
    this.redraw();
  }

  async move(alias, version) {
    await this.change(async () => {
      const path = `/v1/models/${this.subject.name}/aliases/${encodeURIComponent(alias)}`;
      const { previous, unfit } = await get(path, { method: "PUT", json: { version } });
      this.moved = { alias, version, previous, unfit };
    });
    // The button may be far below the message.
    requestAnimationFrame(() => document.getElementById("moved")?.scrollIntoView({ block: "nearest" }));
  }

  async removeAlias(alias) {
    const { name } = this.subject;
    if (!(await confirmed(`Remove the alias ${alias}?`, `Calls to ${name}@${alias} will fail. The version is kept.`, "Remove"))) return;
    await this.change(async () => {
      await call(`/v1/models/${name}/aliases/${encodeURIComponent(alias)}`, { method: "DELETE" });
      if (this.moved?.alias === alias) this.moved = null;
      toast(`${name}@${alias} is removed.`);
    });
  }

  async remove(version) {
    const { name } = this.subject;
    const text = "Its weights and calibrations are deleted permanently. The version number is not reused.";
    if (!(await confirmed(`Delete ${name}:${version}?`, text, "Delete"))) return;
    await this.change(async () => {
      await call(`/v1/models/${name}/versions/${version}`, { method: "DELETE" });
      this.details.delete(version);
      toast(`${name}:${version} is deleted.`);
      if (this.subject.ref === `${name}:${version}`) location.hash = `#/models/${name}`;
    });
  }

  async removeAll() {
    const { name, entry } = this.subject;
    const versions = entry.versions.length === 1 ? "Its only version" : `All ${entry.versions.length} versions`;
    const text = `Calls to ${name} will fail. ${versions} and all calibrations are deleted permanently.`;
    if (!(await confirmed(`Delete the model ${name}?`, text, "Delete"))) return;
    this.busy = true;
    this.redraw();
    try {
      await call(`/v1/models/${name}`, { method: "DELETE" });
      toast(`${name} is deleted.`);
      location.hash = "#/models";
    } catch (error) {
      complain(error);
    }
    this.busy = false;
    this.redraw();
  }

  /** Whether the model ships with the product and cannot be deleted. */
  get shipped() {
    return this.subject.entry.read_only || [...this.details.values()].some((detail) => detail?.read_only);
  }

  view() {
    const { versions } = this.subject.entry;
    return html`${this.aliases()}
      <section class="card"><h2>Versions</h2>
        <div class="scroll"><table class="rows versions">
          <thead><tr><th>version</th><th>aliases</th><th>created</th><th>preset</th><th>dataset</th><th class="num">validation bits/dim</th><th class="num">test bits/dim</th><th><span class="sr-only">actions</span></th></tr></thead>
          <tbody>${repeat(this.listed(), (version) => version, (version) => this.row(version))}</tbody></table></div>
        ${this.shipped ? nothing : html`<div><button class="danger" ?disabled=${this.busy} @click=${() => this.removeAll()}>Delete the model</button></div>`}
        ${versions.length > this.shown ? html`<div><button @click=${() => { this.shown += PAGE_SIZE; this.redraw(); this.refresh(); }}>Show more (${versions.length} in total)</button></div>` : nothing}
      </section>`;
  }

  /** Whether a version is unfit, as far as its details are loaded. */
  unfit(version) {
    return Boolean(this.details.get(version)?.unfit?.length);
  }

  undo() {
    const { moved, subject } = this;
    if (!moved) return nothing;
    const { alias, version, previous } = moved;
    const canRollBack = previous !== null && previous !== version && subject.entry.versions.includes(previous);
    return html`<div class="notice row spread"><span><strong>${alias}</strong> is now version ${version}${previous === null ? "" : `, it was ${previous}`}.
      ${alias === LIVE ? "Scoring switches to it within about two seconds." : ""} ${unfitText(moved.unfit)}</span>
      ${canRollBack ? html`<button @click=${() => this.move(alias, previous)}>Roll back to ${previous}</button>` : nothing}</div>`;
  }

  aliases() {
    const { entry, name } = this.subject;
    const sorted = Object.keys(entry.aliases).sort((a, b) => (b === LIVE) - (a === LIVE) || a.localeCompare(b));
    // Keyed: a new version must not push the user's choice to its neighbour.
    const options = (chosen) => repeat([...entry.versions].sort((a, b) => b - a), (version) => version, (version) => html`<option value=${version} ?selected=${version === chosen}>version ${version}</option>`);
    const add = (event) => {
      event.preventDefault();
      const { target } = event;
      const fields = new FormData(target);
      this.move(fields.get("alias"), Number(fields.get("version"))).then(() => target.reset());
    };
    return html`<section class="card"><h2>Aliases</h2>
      <p class="faint"><code>${name}</code> uses the alias <code>live</code>; <code>${name}@NAME</code> uses another alias. Move an alias to release a version; move it back to roll back.</p>
      <div role="status" id="moved">${this.undo()}</div>
      <ul class="aliases">${repeat(sorted, (alias) => alias, (alias) => html`<li>
        <span class="badge ${alias === LIVE ? "accent" : ""}">${alias}</span>
        <select aria-label="Version of the alias ${alias}" ?disabled=${entry.versions.length < 2} .value=${live(String(entry.aliases[alias]))}
          @change=${(event) => this.move(alias, Number(event.target.value))}>${options(entry.aliases[alias])}</select>
        ${alias === LIVE && !this.unfit(entry.aliases[alias]) ? html`<span class="faint small">cannot be removed</span>` : html`<button class="quiet" @click=${() => this.removeAlias(alias)} aria-label="Remove the alias ${alias}">Remove</button>`}
      </li>`)}</ul>
      <form class="row" @submit=${add}>
        <input class="narrow" name="alias" required pattern=${ALIAS} placeholder="champion" aria-label="Name of a new alias" title="Lowercase letters, digits, dots, dashes and underscores" autocomplete="off">
        <select class="narrow" name="version" aria-label="Version of the new alias">${options(this.subject.version)}</select>
        <button>Add alias</button></form>
    </section>`;
  }

  row(version) {
    const { entry, name } = this.subject;
    const detail = this.details.get(version);
    const aliases = Object.keys(entry.aliases).filter((alias) => entry.aliases[alias] === version);
    const here = version === this.subject.version;
    return html`<tr class=${here ? "here" : ""}>
      <th scope="row"><a href="#/models/${name}:${version}/overview" aria-current=${here ? "true" : "false"}>${version}</a></th>
      <td><span class="row tight">${aliases.map((alias) => html`<span class="badge ${alias === LIVE ? "accent" : ""}">${alias}</span>`)}${this.unfit(version) ? html`<span class="badge bad" title=${unfitText(detail.unfit)}>unfit</span>` : nothing}</span></td>
      ${detail instanceof Error ? html`<td colspan="5"><span class="badge bad">damaged</span> <span class="small break">${detail.message}</span></td>` : this.cells(detail?.manifest)}
      <td><span class="row tight end">
        ${aliases.includes(LIVE) ? nothing : html`<button ?disabled=${detail instanceof Error} @click=${() => this.move(LIVE, version)}>Make live</button>`}
        ${detail?.read_only ? html`<span class="small faint">shipped</span>` : html`<button class="quiet" aria-label="Delete version ${version}" @click=${() => this.remove(version)}>Delete</button>`}
      </span></td></tr>`;
  }

  cells(manifest) {
    if (!manifest) return html`<td colspan="5" class="faint">loading ...</td>`;
    const { training, evaluation, created } = manifest;
    return html`<td class="small" data-label="created">${moment(created)}</td><td data-label="preset">${training.preset}</td><td class="break" data-label="dataset">${training.dataset}</td>
      <td class="num" data-label="validation bits/dim">${fixed(evaluation.validation_bits_per_dim, 4)}</td><td class="num" data-label="test bits/dim">${fixed(evaluation.test_bits_per_dim, 4)}</td>`;
  }
}
