// The versions of a model and the aliases that point at them: moved, put back, taken away.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { confirmed } from "../confirm.js";
import { fixed, moment } from "../format.js";
import { notice } from "../parts.js";
import { call, get } from "../service.js";
import { complain, toast } from "../toast.js";

const LIVE = "live";
const PAGE = 20;
const AT_ONCE = 4;
const ALIAS = "[a-z0-9][a-z0-9._\\-]{0,63}";

export class Versions {
  constructor(subject, redraw, look) {
    [this.subject, this.redraw, this.look] = [subject, redraw, look];
    this.details = new Map(); // by version: what is known of it, or the error
    this.shown = PAGE;
    this.moved = null; // the last move, which can be put back
    this.busy = false;
  }

  /** Asks for the versions that are shown and not known yet; they never change. */
  async refresh() {
    const wanted = this.listed().filter((one) => !this.details.has(one));
    for (const one of wanted) this.details.set(one, null);
    const work = async () => {
      for (let one = wanted.shift(); one !== undefined; one = wanted.shift()) {
        this.details.set(one, await get(`/v1/models/${this.subject.name}:${one}`).catch((error) => error));
        if (this.details.get(one)?.status !== 500 && this.details.get(one) instanceof Error) this.details.delete(one); // asked again
        this.redraw();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  listed() {
    return [...this.subject.entry.versions].sort((a, b) => b - a).slice(0, this.shown);
  }

  /** One change at a time; afterwards everything that shows versions knows of it. */
  async change(work) {
    if (this.busy) return;
    this.busy = true;
    try {
      await work();
      await this.look();
    } catch (error) {
      complain(error);
    }
    this.busy = false;
    this.redraw();
  }

  async move(alias, version) {
    await this.change(async () => {
      const path = `/v1/models/${this.subject.name}/aliases/${encodeURIComponent(alias)}`;
      const { previous } = await get(path, { method: "PUT", json: { version } });
      this.moved = { alias, version, previous };
    });
    // It may have been asked for far below.
    requestAnimationFrame(() => document.getElementById("moved")?.scrollIntoView({ block: "nearest" }));
  }

  async removeAlias(alias) {
    const { name } = this.subject;
    if (!(await confirmed(`Remove the alias ${alias}?`, `Calls of ${name}@${alias} will be refused. The version stays.`, "Remove it"))) return;
    await this.change(async () => {
      await call(`/v1/models/${name}/aliases/${encodeURIComponent(alias)}`, { method: "DELETE" });
      if (this.moved?.alias === alias) this.moved = null;
      toast(`${name}@${alias} is removed.`);
    });
  }

  async remove(version) {
    const { name } = this.subject;
    const text = "Its weights and calibrations are gone for good; the number is not used again.";
    if (!(await confirmed(`Delete ${name}:${version}?`, text, "Delete it"))) return;
    await this.change(async () => {
      await call(`/v1/models/${name}/versions/${version}`, { method: "DELETE" });
      this.details.delete(version);
      toast(`${name}:${version} is deleted.`);
      if (this.subject.ref === `${name}:${version}`) location.hash = `#/models/${name}`;
    });
  }

  async removeAll() {
    const { name, entry } = this.subject;
    const versions = entry.versions.length === 1 ? "its only version" : `all its ${entry.versions.length} versions`;
    const text = `Calls of ${name} will be refused: ${versions}, the live one too, and all calibrations are gone for good.`;
    if (!(await confirmed(`Delete the model ${name}?`, text, "Delete it"))) return;
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

  /** Whether a version of it ships with the product, and so it stays. */
  get shipped() {
    return this.subject.entry.read_only || [...this.details.values()].some((one) => one?.read_only);
  }

  view() {
    const { versions } = this.subject.entry;
    return html`${this.aliases()}
      <section class="card"><h2>Versions</h2>
        <div class="scroll"><table class="rows versions">
          <thead><tr><th>version</th><th>aliases</th><th>created</th><th>preset</th><th>dataset</th><th class="num">validation bits/dim</th><th class="num">test bits/dim</th><th><span class="sr-only">actions</span></th></tr></thead>
          <tbody>${repeat(this.listed(), (one) => one, (one) => this.row(one))}</tbody></table></div>
        ${this.shipped ? nothing : html`<div><button class="danger" ?disabled=${this.busy} @click=${() => this.removeAll()}>Delete the model</button></div>`}
        ${versions.length > this.shown ? html`<div><button @click=${() => { this.shown += PAGE; this.redraw(); this.refresh(); }}>Show more of ${versions.length}</button></div>` : nothing}
      </section>`;
  }

  undo() {
    const { moved, subject } = this;
    if (!moved) return nothing;
    const { alias, version, previous } = moved;
    const back = previous !== null && previous !== version && subject.entry.versions.includes(previous);
    return html`<div class="notice row spread"><span><strong>${alias}</strong> is now version ${version}${previous === null ? "" : `, it was ${previous}`}.
      ${alias === LIVE ? "Scores go over to it within about two seconds." : ""}</span>
      ${back ? html`<button @click=${() => this.move(alias, previous)}>Roll back to ${previous}</button>` : nothing}</div>`;
  }

  aliases() {
    const { entry, name } = this.subject;
    const sorted = Object.keys(entry.aliases).sort((a, b) => (b === LIVE) - (a === LIVE) || a.localeCompare(b));
    const options = (chosen) => [...entry.versions].sort((a, b) => b - a).map((one) => html`<option value=${one} ?selected=${one === chosen}>version ${one}</option>`);
    const add = (event) => {
      event.preventDefault();
      const { target } = event;
      const found = new FormData(target);
      this.move(found.get("alias"), Number(found.get("version"))).then(() => target.reset());
    };
    return html`<section class="card"><h2>Aliases</h2>
      <p class="faint"><code>${name}</code> means its alias <code>live</code>, <code>${name}@NAME</code> any other. To move one is a release, to move it back a rollback.</p>
      <div role="status" id="moved">${this.undo()}</div>
      <ul class="aliases">${repeat(sorted, (one) => one, (alias) => html`<li>
        <span class="badge ${alias === LIVE ? "accent" : ""}">${alias}</span>
        <select aria-label="Version of the alias ${alias}" ?disabled=${entry.versions.length < 2} .value=${live(String(entry.aliases[alias]))}
          @change=${(event) => this.move(alias, Number(event.target.value))}>${options(entry.aliases[alias])}</select>
        ${alias === LIVE ? html`<span class="faint small">every model has it</span>` : html`<button class="quiet" @click=${() => this.removeAlias(alias)} aria-label="Remove the alias ${alias}">Remove</button>`}
      </li>`)}</ul>
      <form class="row" @submit=${add}>
        <input class="narrow" name="alias" required pattern=${ALIAS} placeholder="champion" aria-label="Name of a new alias" title="small letters, digits, dot, dash and underscore" autocomplete="off">
        <select class="narrow" name="version" aria-label="Version of the new alias">${options(this.subject.version)}</select>
        <button>Add alias</button></form>
    </section>`;
  }

  row(version) {
    const { entry, name } = this.subject;
    const known = this.details.get(version);
    const aliases = Object.keys(entry.aliases).filter((alias) => entry.aliases[alias] === version);
    const here = version === this.subject.version;
    return html`<tr class=${here ? "here" : ""}>
      <th scope="row"><a href="#/models/${name}:${version}/overview" aria-current=${here ? "true" : "false"}>${version}</a></th>
      <td><span class="row tight">${aliases.map((alias) => html`<span class="badge ${alias === LIVE ? "accent" : ""}">${alias}</span>`)}</span></td>
      ${known instanceof Error ? html`<td colspan="5"><span class="badge bad">damaged</span> <span class="small break">${known.message}</span></td>` : this.cells(known?.manifest)}
      <td><span class="row tight end">
        ${aliases.includes(LIVE) ? nothing : html`<button ?disabled=${known instanceof Error} @click=${() => this.move(LIVE, version)}>Make live</button>`}
        ${known?.read_only ? html`<span class="small faint">shipped</span>` : html`<button class="quiet" aria-label="Delete version ${version}" @click=${() => this.remove(version)}>Delete</button>`}
      </span></td></tr>`;
  }

  cells(manifest) {
    if (!manifest) return html`<td colspan="5" class="faint">loading ...</td>`;
    const { training, evaluation, created } = manifest;
    return html`<td class="small" data-label="created">${moment(created)}</td><td data-label="preset">${training.preset}</td><td class="break" data-label="dataset">${training.dataset}</td>
      <td class="num" data-label="validation bits/dim">${fixed(evaluation.validation_bits_per_dim, 4)}</td><td class="num" data-label="test bits/dim">${fixed(evaluation.test_bits_per_dim, 4)}</td>`;
  }
}
