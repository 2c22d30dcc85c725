// The list of models.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { bytes, count, fixed, shape } from "../format.js";
import { everyNowAndThen, painter } from "../paint.js";
import { failure, stateBadge, waiting } from "../parts.js";
import { get } from "../service.js";
import { uploader } from "./upload.js";

const LOOK_MS = 5000;
const FEW = 8; // models that need no search

const state = { models: null, error: null, search: "" };

export function showList(root) {
  let redraw = () => undefined;
  const load = async () => {
    try {
      Object.assign(state, { models: (await get("/v1/models")).models, error: null });
    } catch (error) {
      state.error = error;
    }
    redraw();
  };
  redraw = painter(root, () => view(load, () => redraw()));
  load();
  // A key that is wanted is not asked for again and again.
  return everyNowAndThen(LOOK_MS, async () => { if (state.error?.status !== 401) await load(); });
}

/** `live` first, the others by name. */
export function aliasBadges(aliases) {
  const sorted = Object.entries(aliases).sort(([a], [b]) => (b === "live") - (a === "live") || a.localeCompare(b));
  return sorted.map(([alias, version]) => html`<span class="badge ${alias === "live" ? "accent" : ""}">${alias} → ${version}</span>`);
}

function view(load, redraw) {
  const { models, error } = state;
  return html`
    <div class="head"><div><h1>Models</h1><p>Each version with its weights, calibrations and what is known of it.</p></div>
      <a class="button" href="#/train">Train one</a></div>
    ${error ? failure(error, load) : nothing}
    ${models ? html`${listed(models, redraw)}${uploader(redraw, load)}` : error ? nothing : waiting()}`;
}

function listed(models, redraw) {
  if (!models.length) return html`<p class="empty">There is no model yet. <a href="#/train">Train one</a>.</p>`;
  const words = state.search.toLowerCase().split(/\s+/);
  const found = models.filter((one) => words.every((word) => `${one.name} ${one.architecture ?? ""} ${one.state} ${Object.keys(one.aliases).join(" ")}`.includes(word)));
  return html`<section class="card" aria-label="All models">
    ${models.length > FEW ? html`<header><div class="field"><label for="search">Search</label>
        <input id="search" type="search" .value=${state.search} @input=${(event) => { state.search = event.target.value; redraw(); }}></div>
        <p class="small faint" role="status">${count(found.length, "model")}</p></header>` : nothing}
    ${found.length ? table(found) : html`<p class="empty">No model is like that.</p>`}
  </section>`;
}

function table(models) {
  return html`<div class="scroll"><table class="rows models">
    <thead><tr><th>model</th><th>state</th><th class="num">versions</th><th>aliases</th><th>architecture</th><th>images</th>
      <th class="num">test bits/dim</th><th class="num">size</th></tr></thead>
    <tbody>${repeat(models, (one) => one.name, row)}</tbody></table></div>`;
}

function row(one) {
  return html`<tr class=${one.reason ? "has-why" : ""}>
    <th class="break" scope="row"><a href="#/models/${one.name}">${one.name}</a>${one.read_only ? html` <span class="small faint">shipped</span>` : nothing}</th>
    <td data-label="state">${stateBadge(one.state)}</td>
    <td class="num" data-label="versions">${one.versions.length}</td>
    <td data-label="aliases"><span class="row tight">${aliasBadges(one.aliases)}</span></td>
    <td class="nobreak" data-label="architecture">${one.architecture ?? "–"}</td>
    <td class="nobreak" data-label="images">${shape(one.image_shape)}</td>
    <td class="num" data-label="test bits/dim">${fixed(one.test_bits_per_dim, 4)}</td>
    <td class="num nobreak" data-label="size">${bytes(one.size_bytes)}</td>
  </tr>${one.reason ? html`<tr class="why"><td colspan="8" class="small break">${one.reason}</td></tr>` : nothing}`;
}
