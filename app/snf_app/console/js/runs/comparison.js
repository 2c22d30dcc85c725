// Chosen training runs side by side: their curves in one chart, what differs in their parameters, and their results.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { brief, count, duration, fixed, setting, whole } from "../format.js";
import { segments, waiting } from "../parts.js";
import { get, isAbort } from "../service.js";
import { problem } from "../train/messages.js";
import "../train/clipped_lines.js";

export const MOST = 6;
const POINTS = 500;
const COLOURS = ["--accent", "--bad", "--good", "--warn", "--text", "--line-strong"];
const FIGURES = {
  validation: { y: "bits/dim", points: true, of: ({ validations }) => validations.map((point) => [point.step, point.bits_per_dim]) },
  training: { y: "bits/dim", of: ({ points }) => points.map((point) => [point.step, point.bits_per_dim]) },
  "reconstruction error": { y: "error", log: true, of: ({ points }) => points.map((point) => [point.step, point.reconstruction_error > 0 ? point.reconstruction_error : null]) },
};
const RESULTS = [
  ["test bits/dim", ({ result }) => fixed(result?.test_bits_per_dim, 4)],
  ["validation bits/dim", ({ result }) => fixed(result?.validation_bits_per_dim, 4)],
  ["test nats", ({ result }) => fixed(result?.test_nats, 1)],
  ["learned inverse ‖I − RW‖", ({ result }) => brief(result?.reconstruction_error)],
  ["fit", ({ result }) => (result ? Object.values(result.unfit).join("; ") || "yes" : "–")],
  ["steps", ({ steps }) => whole(steps)],
  ["time", ({ seconds }) => duration(seconds)],
  ["state", ({ state, error }) => (error ? `${state}: ${error}` : state)],
];

/** Returns the model version that a run has registered, or the name of the model before. */
export const nameOf = (run) => run.result?.ref ?? run.model;

export class Comparison {
  constructor(ids, { changed, signal }) {
    Object.assign(this, { changed, signal, ids: ids.slice(0, MOST), details: new Map(), missing: new Set(), figure: null, error: null });
  }

  has(id) {
    return this.ids.includes(id);
  }

  get full() {
    return this.ids.length >= MOST;
  }

  toggle(id) {
    this.ids = this.has(id) ? this.ids.filter((other) => other !== id) : [...this.ids, id];
    // The address can be shared and opened again. A new hash would mount the page anew.
    history.replaceState(null, "", `#/runs${this.ids.length ? `/${this.ids.join(",")}` : ""}`);
    this.error = null;
    this.missing.delete(id);
    this.changed();
    this.load();
  }

  /** Loads the chosen runs that are not known or not ended. */
  async load() {
    const wanted = this.ids.filter((id) => !this.missing.has(id) && (this.details.get(id)?.run.state ?? "unfinished") === "unfinished");
    this.error = null;
    await Promise.all(wanted.map((id) => this.loadRun(id)));
    this.changed();
  }

  async loadRun(id) {
    try {
      this.details.set(id, await get(`/v1/runs/${encodeURIComponent(id)}`, { query: { points: POINTS }, signal: this.signal }));
    } catch (error) {
      if (isAbort(error)) return;
      if (error.status !== 404) this.error = error; // what was loaded before stays visible
      else {
        this.details.delete(id);
        this.missing.add(id);
      }
    }
  }

  view() {
    if (!this.ids.length) return nothing;
    const chosen = this.ids.filter((id) => this.details.has(id)).map((id, index) => ({ ...this.details.get(id), letter: String.fromCharCode(65 + index), index }));
    return html`<section class="card" aria-labelledby="comparison-title">
      <h2 id="comparison-title">Comparison</h2>
      ${problem(this.error)}
      ${this.ids.filter((id) => this.missing.has(id)).map((id) => html`<div class="row"><p class="notice warn">There is no record of run <code class="break">${id}</code>: it is deleted, damaged, or from before there were records.</p>
        <button type="button" aria-label="Remove ${id}" @click=${() => this.toggle(id)}>Remove</button></div>`)}
      ${chosen.length ? html`${this.curves(chosen)}${tables(chosen, (id) => this.toggle(id))}` : this.error || this.missing.size ? nothing : waiting("Loading runs ...")}
    </section>`;
  }

  curves(chosen) {
    const drawn = Object.entries(FIGURES).filter(([, { of }]) => chosen.some((detail) => of(detail).some(([, y]) => y != null))).map(([name]) => name);
    if (!drawn.length) return html`<p class="empty">No curves: models of features are fitted in closed form, and other curves appear after the first step.</p>`;
    const first = drawn.find((name) => chosen.some((detail) => FIGURES[name].of(detail).length > 1)) ?? drawn[0]; // a point is no curve
    const figure = drawn.includes(this.figure) ? this.figure : first;
    const { y, log, points, of } = FIGURES[figure];
    const series = chosen.map((detail) => {
      const known = of(detail).filter(([, value]) => value != null);
      return { label: `${detail.letter} ${nameOf(detail.run)}`, colour: COLOURS[detail.index], points, x: known.map(([step]) => step), y: known.map(([, value]) => value) };
    });
    const ends = series.map(({ label, y: values }) => `${label} ${values.length ? `ends at ${brief(values.at(-1), 4)}` : "none"}`).join(", ");
    return html`<div>${segments("figure", "Curve", drawn.map((name) => [name, name]), figure, (name) => { this.figure = name; this.changed(); })}</div>
      ${repeat([figure], (name) => name, () => html`<snf-clipped-lines .label=${`${figure} ${y} over steps: ${ends}`} .log=${Boolean(log)} .x=${"step"} .y=${y} .series=${series}></snf-clipped-lines>`)}`;
  }
}

function tables(chosen, remove) {
  const runs = chosen.map(({ run }) => run);
  const settings = runs.map(settingsOf);
  const names = [...new Set(settings.flatMap((each) => Object.keys(each)))];
  const rows = names.map((name) => [name.replaceAll("_", " "), settings.map((each) => each[name] ?? "–")]);
  const differs = ([, values]) => new Set(values).size > 1;
  const [differing, equal] = [rows.filter(differs), rows.filter((row) => !differs(row))];
  return html`<h3>Results</h3>${table("Results", chosen, RESULTS.map(([name, of]) => [name, runs.map(of)]), { remove })}
    ${chosen.length < 2 ? html`<p class="small faint">Choose another training to compare it with.</p>` : html`<h3>Parameters that differ</h3>
      ${differing.length ? table("Parameters that differ", chosen, differing, { differ: true }) : html`<p class="small faint">All parameters are equal.</p>`}`}
    ${equal.length ? html`<details><summary>${count(equal.length, chosen.length < 2 ? "parameter" : "equal parameter")}</summary>${table("Equal parameters", chosen, equal)}</details>` : nothing}`;
}

function settingsOf({ preset, dataset, device, parameters, result }) {
  const values = { preset, layers: result?.architecture, dataset, device, ...parameters };
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value != null).map(([name, value]) => [name, setting(value)]));
}

function table(label, chosen, rows, { differ = false, remove = null } = {}) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table class="side-by-side">
    <thead><tr><td></td>${chosen.map(({ run, letter, index }) => html`<th scope="col"><span class="swatch colour-${index}"></span> ${letter} ${run.result ? html`<a href="#/models/${run.result.ref}">${run.result.ref}</a>` : run.model}${remove ? html` <button type="button" class="small" aria-label="Remove ${letter} from the comparison" @click=${() => remove(run.id)}>×</button>` : nothing}</th>`)}</tr></thead>
    <tbody>${rows.map(([name, values]) => html`<tr class=${differ ? "differs" : ""}><th scope="row">${name}</th>${values.map((value) => html`<td>${value}</td>`)}</tr>`)}</tbody></table></div>`;
}
