// The report of an evaluation: AUROC of every set beside the best trivial baseline, false alarms, curves, histograms.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed, moment, whole } from "../format.js";
import { facts } from "../parts.js";
import { outlines, roc } from "./plots.js";

const HEADLINE = new Set(["combined", "thorough", "family", "baseline"]);
const DRAWN = 6; // curves that can be told apart
const SHOWN = 8; // pictures of a gallery

/** A report as a page's part. */
export function report(found) {
  const datasets = found.sets.filter((one) => one.kind === "dataset");
  const faults = found.sets.filter((one) => one.kind === "corruption");
  return html`<section class="card" aria-label="Report"><header><h2>${found.normal.name} against ${[...datasets.map((one) => one.name), ...(faults.length ? ["graded faults"] : [])].join(", ")}</h2>
      <span class="small faint">${moment(found.created)}, by ${found.model} with calibration ${found.calibration} (${found.calibration_dataset})</span></header>
    ${datasets.length ? sets(datasets, found) : nothing}
    ${faults.length ? html`<details ?open=${!datasets.length}><summary>${faults.length} graded faults</summary>${sets(faults, found)}</details>` : nothing}
    <div class="columns"><div class="stack"><h3>False alarms</h3>${falseAlarms(found)}</div>
      <div class="stack"><h3>Normal images</h3>${facts([["tested", whole(found.normal.test.images)], ["mean log-likelihood", `${fixed(found.normal.mean_log_likelihood, 1)} nats`], ["bits/dim", fixed(found.normal.bits_per_dim, 4)]])}</div></div>
    <div class="columns">${found.histograms.map((one) => histogram(one))}</div>
    ${datasets.map((one) => closer(one, found))}
    <details><summary>What a reader must know</summary><ul class="notes small">${found.notes.map((one) => html`<li>${one}</li>`)}</ul></details>
  </section>`;
}

function sets(those, found) {
  const [ours] = found.columns;
  const alpha = found.alphas[0];
  return html`<div class="scroll"><table class="rows sets">
    <thead><tr><th>told from</th><th class="num">AUROC</th><th class="num">best trivial baseline</th><th class="num">difference</th><th class="num">FPR at 95 %</th><th class="num">found at alpha ${100 * alpha} %</th></tr></thead>
    <tbody>${those.map((one) => {
      const [mine, other] = [resultOf(one, ours.name), resultOf(one, one.best_baseline)];
      return html`<tr><th scope="row" class="break">${one.name} ${one.kind === "dataset" ? html`<span class="small faint nobreak">${whole(one.images.images)} images</span>` : nothing}</th>
        <td class="num" data-label="AUROC"><strong>${fixed(mine.auroc, 4)}</strong><br>${interval(mine.auroc_interval)}</td>
        <td class="num" data-label="best baseline">${fixed(other.auroc, 4)}<br><span class="small faint">${labelOf(found, one.best_baseline)}</span></td>
        <td class="num across" data-label="difference">${difference(one)}</td>
        <td class="num" data-label="FPR at 95 %">${fixed(100 * mine.fpr95, 1)} %</td>
        <td class="num" data-label="found">${percent(mine.detected.find((rate) => rate.alpha === alpha)?.share)}</td></tr>`;
    })}</tbody></table></div>`;
}

function difference({ auroc_over_baseline: gain, auroc_over_baseline_interval: [low, high] }) {
  const [kind, word] = low > 0 ? ["good", "better"] : high < 0 ? ["bad", "worse"] : ["", "not told apart"];
  return html`<span class="badge ${kind}">${gain >= 0 ? "+" : "−"}${fixed(Math.abs(gain), 4)} ${word}</span><br>${interval([low, high])}`;
}

function interval([low, high]) {
  return html`<span class="small faint nobreak">${fixed(low, 4)} to ${fixed(high, 4)}</span>`;
}

function falseAlarms({ columns: [ours] }) {
  return html`<div class="scroll"><table class="rows"><thead><tr><th>alpha</th><th class="num">flagged</th><th class="num">expected, 99 %</th><th><span class="sr-only">verdict</span></th></tr></thead>
    <tbody>${ours.false_alarms.map((one) => html`<tr><th scope="row">${brief(100 * one.alpha)} %</th><td class="num" data-label="flagged">${percent(one.share)}</td>
      <td class="num" data-label="expected">${percent(one.interval[0])} to ${percent(one.interval[1])}</td>
      <td>${one.inside === null ? nothing : html`<span class="badge ${one.inside ? "good" : "warn"}">${one.inside ? "as promised" : "outside"}</span>`}</td></tr>`)}</tbody></table></div>`;
}

function histogram(one) {
  const sets = one.sets.map(({ set, shares }) => ({ label: set, shares }));
  return html`<div class="stack"><h3>${one.label}</h3>${outlines({ ...one, sets }, `Histograms of ${one.label}: ${sets.map(({ label }) => label).join(", ")}`)}</div>`;
}

function closer(one, found) {
  const curves = one.curves.slice(0, DRAWN).map(({ score, points }) => ({ label: labelOf(found, score), points }));
  const scores = found.columns.filter(({ family }) => HEADLINE.has(family));
  return html`<details><summary>${one.name}: ROC curves, all scores, extreme images</summary>
    <div class="columns">
      <div class="stack"><h3>ROC</h3>${roc(curves, `ROC curves of ${one.name}`)}</div>
      <div class="stack"><h3>Scores</h3><div class="scroll"><table class="rows"><thead><tr><th>score</th><th class="num">AUROC</th><th class="num">average precision</th><th class="num">FPR at 95 %</th></tr></thead>
        <tbody>${scores.map(({ name, label }) => {
          const result = resultOf(one, name);
          return html`<tr><th scope="row" class="small">${label}</th><td class="num" data-label="AUROC">${fixed(result.auroc, 4)}</td>
            <td class="num" data-label="average precision">${fixed(result.aupr, 4)}</td><td class="num" data-label="FPR at 95 %">${fixed(100 * result.fpr95, 1)} %</td></tr>`;
        })}</tbody></table></div></div>
    </div>
    ${pictures(`Strangest of ${one.name}`, one.gallery.most)}${pictures(`Least strange of ${one.name}: missed first`, one.gallery.least)}
    ${pictures(`Strangest of ${found.normal.name}: false alarms first`, found.normal.gallery.most)}
  </details>`;
}

function pictures(title, examples) {
  return html`<h3>${title}</h3><ul class="gallery">${examples.slice(0, SHOWN).map((one) => html`<li><img class="pixels" src="data:image/png;base64,${one.png}" alt=${one.name} title=${[one.name, one.reason].filter(Boolean).join(": ")} width="64" height="64">
    <span class="small faint">p ${brief(one.p_value, 2)}</span></li>`)}</ul>`;
}

function resultOf(set, score) {
  return set.results.find((one) => one.score === score);
}

function labelOf(found, score) {
  return found.columns.find((one) => one.name === score).label;
}

function percent(share) {
  return share == null ? "not attainable" : `${fixed(100 * share, 1)} %`;
}
