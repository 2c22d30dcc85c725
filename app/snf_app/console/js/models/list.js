// The list of models.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { accepted, bytes, count, fixed } from "../format.js";
import { painter, poll } from "../paint.js";
import { failure, stateBadge, unfitText, waiting } from "../parts.js";
import { getAll } from "../service.js";
import { uploader } from "./upload.js";

const POLL_MS = 5000;
const SEARCH_FROM = 8; // the search field appears for more models than this

const state = { models: null, error: null, search: "" };

export function showList(root) {
  let redraw = () => undefined;
  const load = async () => {
    try {
      Object.assign(state, { models: await getAll("/v1/models", "models"), error: null });
    } catch (error) {
      state.error = error;
    }
    redraw();
  };
  redraw = painter(root, () => view(load, () => redraw()));
  load();
  // If the user gave no API key, polling would reopen the key dialog.
  return poll(POLL_MS, async () => { if (state.error?.status !== 401) await load(); });
}

/** Renders the aliases of a model: `live` first, the others by name. */
export function aliasBadges(aliases) {
  const sorted = Object.entries(aliases).sort(([a], [b]) => (b === "live") - (a === "live") || a.localeCompare(b));
  return sorted.map(([alias, version]) => html`<span class="badge ${alias === "live" ? "accent" : ""}">${alias} → ${version}</span>`);
}

function view(load, redraw) {
  const { models, error } = state;
  return html`
    <div class="head"><div><h1>Models</h1><p>All models with their versions, calibrations and evaluations.</p></div>
      <a class="button" href="#/train">Train a model</a></div>
    ${error ? failure(error, load) : nothing}
    ${models ? html`${listed(models, redraw)}${uploader(redraw, load)}` : error ? nothing : waiting()}`;
}

function listed(models, redraw) {
  if (!models.length) return html`<p class="empty">There is no model yet. <a href="#/train">Train a model</a> or upload one below.</p>`;
  const words = state.search.toLowerCase().split(/\s+/);
  const matching = models.filter(({ name, architecture, state: status, aliases }) => words.every((word) => `${name} ${architecture ?? ""} ${status} ${Object.keys(aliases).join(" ")}`.includes(word)));
  return html`<section class="card" aria-label="All models">
    ${models.length > SEARCH_FROM ? html`<header><div class="field"><label for="search">Search</label>
        <input id="search" type="search" .value=${state.search} @input=${(event) => { state.search = event.target.value; redraw(); }}></div>
        <p class="small faint" role="status">${count(matching.length, "model")}</p></header>` : nothing}
    ${matching.length ? table(matching) : html`<p class="empty">No model matches the search.</p>`}
  </section>`;
}

function table(models) {
  return html`<div class="scroll"><table class="rows models">
    <thead><tr><th>model</th><th>state</th><th class="num">versions</th><th>aliases</th><th>architecture</th><th>images</th>
      <th class="num">test bits/dim</th><th class="num">size</th></tr></thead>
    <tbody>${repeat(models, ({ name }) => name, row)}</tbody></table></div>`;
}

function row(model) {
  const why = model.reason ?? unfitText(model.unfit);
  return html`<tr class=${why ? "has-why" : ""}>
    <th class="break" scope="row"><a href="#/models/${model.name}">${model.name}</a>${model.read_only ? html` <span class="small faint">shipped</span>` : nothing}</th>
    <td data-label="state">${stateBadge(model.state)}${model.drift_alarms ? html` <a class="badge bad" href="#/models/${model.name}/drift">drift</a>` : nothing}</td>
    <td class="num" data-label="versions">${model.versions.length}</td>
    <td data-label="aliases"><span class="row tight">${aliasBadges(model.aliases)}</span></td>
    <td class="nobreak" data-label="architecture">${model.architecture ?? "–"}</td>
    <td class="nobreak" data-label="images">${accepted(model)}</td>
    <td class="num" data-label="test bits/dim">${fixed(model.test_bits_per_dim, 4)}</td>
    <td class="num nobreak" data-label="size">${bytes(model.size_bytes)}</td>
  </tr>${why ? html`<tr class="why"><td colspan="8" class="small break">${why}</td></tr>` : nothing}`;
}
