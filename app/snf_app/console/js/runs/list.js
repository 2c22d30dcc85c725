// The list of training runs, newest first, refreshed every few seconds, with a box to choose each.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { fixed, moment, whole } from "../format.js";
import { failure, stateBadge, waiting } from "../parts.js";
import { get, isAbort, pause } from "../service.js";
import { MOST, nameOf } from "./comparison.js";

const PAGE_SIZE = 20;
const MAX_PAGE_SIZE = 200;
const POLL_MS = 5000;

export class Runs {
  constructor({ changed, comparison }) {
    Object.assign(this, { changed, comparison, runs: null, more: false, shown: PAGE_SIZE, error: null });
  }

  /** Polls until `signal` is aborted, while the page is visible. */
  async watch(signal) {
    this.signal = signal;
    while (!signal.aborted) {
      if (!document.hidden) await Promise.all([this.load(), this.comparison.load()]);
      if (this.error?.status === 401) return; // polling would reopen the key dialog
      await pause(POLL_MS, signal).catch(() => undefined);
    }
  }

  async load() {
    try {
      const runs = [];
      let after = null;
      do {
        const query = { limit: Math.min(MAX_PAGE_SIZE, this.shown - runs.length), after };
        const page = await get("/v1/runs", { query, signal: this.signal });
        runs.push(...page.runs);
        after = page.next;
      } while (after && runs.length < this.shown);
      Object.assign(this, { runs, more: Boolean(after), error: null });
    } catch (error) {
      if (isAbort(error)) return;
      this.error = error; // the previous list stays visible
    }
    this.changed();
  }

  showMore() {
    this.shown += PAGE_SIZE;
    this.load();
  }

  view() {
    return html`<section class="card" aria-labelledby="runs-title">
      <header><h2 id="runs-title">Trainings</h2><span class="faint small">choose 2 to ${MOST}</span></header>
      ${this.error ? failure(this.error, () => (this.error.status === 401 ? this.watch(this.signal) : this.load())) : nothing}
      ${this.runs === null ? (this.error ? nothing : waiting("Loading runs ...")) : this.runs.length ? this.table() : html`<p class="empty">No runs yet. <a href="#/train">Start a training</a>, or use <code>snf train</code>.</p>`}
      ${this.more ? html`<div><button type="button" @click=${() => this.showMore()}>Show more</button></div>` : nothing}
    </section>`;
  }

  table() {
    return html`<table class="jobs">
      <thead><tr><th><span class="sr-only">compare</span></th><th>state</th><th>model</th><th>by</th><th>dataset</th><th>preset</th><th class="num">steps</th><th class="num">bits/dim</th><th>started</th></tr></thead>
      <tbody>${repeat(this.runs, ({ id }) => id, (run) => this.row(run))}</tbody></table>`;
  }

  row(run) {
    const { comparison } = this;
    const chosen = comparison.has(run.id);
    const bits = run.result?.test_bits_per_dim ?? run.result?.validation_bits_per_dim;
    return html`<tr>
      <td><input type="checkbox" aria-label="Compare ${nameOf(run)}, started ${moment(run.started)}" .checked=${chosen} ?disabled=${!chosen && comparison.full} @change=${() => comparison.toggle(run.id)}></td>
      <td>${stateBadge(run.state)}</td>
      <td class="break">${nameOf(run)}</td>
      <td>${run.origin === "job" ? html`<a href="#/train/${run.id}">job</a>` : "command"}</td>
      <td class="break">${run.dataset}</td>
      <td class="break">${run.preset}</td>
      <td class="num" data-label="steps">${run.steps == null ? "" : whole(run.steps)}</td>
      <td class="num" data-label="bits/dim">${bits == null ? "" : fixed(bits)}</td>
      <td class="small faint nowrap-text">${moment(run.started)}</td>
    </tr>`;
  }
}
