// The report of an evaluation: AUROC and best trivial baseline of each set, false alarms, curves and histograms.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed, moment, whole } from "../format.js";
import { facts } from "../parts.js";
import { outlines, roc } from "./plots.js";

const HEADLINE = new Set(["combined", "thorough", "family", "baseline"]);
const MAX_CURVES = 6;
const GALLERY_SIZE = 8; // images of a gallery

/** Renders a report. */
export function report(evaluation) {
  const { normal, notes } = evaluation;
  const datasets = evaluation.sets.filter(({ kind }) => kind === "dataset");
  const corruptions = evaluation.sets.filter(({ kind }) => kind === "corruption");
  return html`<section class="card report" aria-label="Report"><header><h2>${normal.name} against ${[...datasets.map(({ name }) => name), ...(corruptions.length ? ["graded corruptions"] : [])].join(", ")}</h2>
      <span class="small faint">${moment(evaluation.created)}, by ${evaluation.model} with calibration ${evaluation.calibration} (${evaluation.calibration_dataset})</span>
      <button type="button" @click=${() => window.print()}>Print</button></header>
    ${datasets.length ? results(datasets, evaluation) : nothing}
    ${datasets.filter((set) => set.subfolders?.length).map((set) => subfolders(set, evaluation))}
    ${datasets.some((set) => set.localisation) ? localisation(datasets.filter((set) => set.localisation)) : nothing}
    ${corruptions.length ? html`<details ?open=${!datasets.length}><summary>${corruptions.length} graded corruptions</summary>${results(corruptions, evaluation)}</details>` : nothing}
    <div class="columns"><div class="stack"><h3>False alarms</h3>${falseAlarms(evaluation)}</div>
      <div class="stack"><h3>Normal images</h3>${facts([["images", whole(normal.test.images)], ["mean log-likelihood", `${fixed(normal.mean_log_likelihood, 1)} nats${normal.bits_per_dim === null ? " of the features" : ""}`], ["bits/dim", normal.bits_per_dim === null ? null : fixed(normal.bits_per_dim, 4)]])}</div></div>
    <div class="columns">${evaluation.histograms.map(histogram)}</div>
    ${datasets.map((set) => details(set, evaluation))}
    <details><summary>Notes</summary><ul class="notes small">${notes.map((note) => html`<li>${note}</li>`)}</ul></details>
  </section>`;
}

function results(sets, evaluation) {
  const [ours] = evaluation.columns;
  return html`<div class="scroll"><table class="rows sets">
    <thead><tr><th>anomalous images</th><th class="num">AUROC</th><th class="num">best trivial baseline</th><th class="num">difference</th><th class="num">FPR at 95 %</th><th class="num">detected at alpha ${brief(100 * evaluation.alphas[0])} %</th></tr></thead>
    <tbody>${sets.map((set) => {
      const [result, baseline] = [resultOf(set, ours.name), resultOf(set, set.best_baseline)];
      return html`<tr><th scope="row" class="break">${set.name} ${set.kind === "dataset" ? html`<span class="small faint nobreak">${whole(set.images.images)} images</span>` : nothing}</th>
        <td class="num" data-label="AUROC"><strong>${fixed(result.auroc, 4)}</strong><br>${interval(result.auroc_interval)}</td>
        <td class="num" data-label="best baseline">${fixed(baseline.auroc, 4)}<br><span class="small faint">${labelOf(evaluation, set.best_baseline)}</span></td>
        <td class="num across" data-label="difference">${difference(set)}</td>
        <td class="num" data-label="FPR at 95 %">${fixed(100 * result.fpr95, 1)} %</td>
        <td class="num" data-label="detected">${percent(result.detected[0].share)}</td></tr>`;
    })}</tbody></table></div>`;
}

function subfolders({ name, subfolders: parts }, { alphas }) {
  return html`<div class="stack"><h3>Subfolders of ${name}</h3><div class="scroll"><table class="rows">
    <thead><tr><th>subfolder</th><th class="num">images</th>${alphas.map((alpha) => html`<th class="num">detected at alpha ${brief(100 * alpha)} %</th>`)}<th class="num">AUROC</th></tr></thead>
    <tbody>${parts.map((part) => html`<tr><th scope="row" class="break">${part.name}</th><td class="num" data-label="images">${whole(part.images)}</td>
      ${part.detected.map(({ alpha, share }) => html`<td class="num" data-label="detected at ${brief(100 * alpha)} %">${percent(share)}</td>`)}
      <td class="num" data-label="AUROC">${fixed(part.auroc, 4)}</td></tr>`)}</tbody></table></div></div>`;
}

function localisation(sets) {
  return html`<h3>Where the defects are, by masks</h3><div class="scroll"><table class="rows sets">
    <thead><tr><th>anomalous images</th><th class="num">pixel AUROC</th><th class="num">AUPRO</th><th class="num">AUPIMO</th><th class="num">defects in a region</th><th class="num">normal images with a region</th></tr></thead>
    <tbody>${sets.map(({ name, localisation: entry }) => {
      const rates = entry.regions.find(({ hit }) => hit !== null);
      const rate = (share) => (rates ? html`${percent(share)}<br><span class="small faint nobreak">at alpha ${brief(100 * rates.alpha)} %</span>` : "calibrate again");
      return html`<tr><th scope="row" class="break">${name} <span class="small faint nobreak">${whole(entry.images)} with a mask</span><br><span class="small faint">${whole(entry.unpaired)} without a mask, ${whole(entry.empty_masks)} with an empty one</span></th>
        <td class="num" data-label="pixel AUROC">${fixed(entry.pixel_auroc, 4)}</td><td class="num" data-label="AUPRO">${fixed(entry.aupro, 4)}</td>
        <td class="num" data-label="AUPIMO">${entry.aupimo === null ? "too few normal pixels" : fixed(entry.aupimo, 4)}</td>
        <td class="num" data-label="defects in a region">${rate(rates?.hit)}</td>
        <td class="num" data-label="normal images with a region">${rate(rates?.false_alarms)}</td></tr>`;
    })}</tbody></table></div>`;
}

function difference({ auroc_over_baseline: gain, auroc_over_baseline_interval: [low, high] }) {
  const [kind, word] = low > 0 ? ["good", "better"] : high < 0 ? ["bad", "worse"] : ["", "not significant"];
  return html`<span class="badge ${kind}">${gain >= 0 ? "+" : "−"}${fixed(Math.abs(gain), 4)} ${word}</span><br>${interval([low, high])}`;
}

function interval([low, high]) {
  return html`<span class="small faint nobreak">${fixed(low, 4)} to ${fixed(high, 4)}</span>`;
}

function falseAlarms({ columns: [ours] }) {
  return html`<div class="scroll"><table class="rows"><thead><tr><th>alpha</th><th class="num">flagged</th><th class="num">expected, 99 %</th><th><span class="sr-only">verdict</span></th></tr></thead>
    <tbody>${ours.false_alarms.map(({ alpha, share, interval: [low, high], inside }) => html`<tr><th scope="row">${brief(100 * alpha)} %</th><td class="num" data-label="flagged">${percent(share)}</td>
      <td class="num" data-label="expected">${percent(low)} to ${percent(high)}</td>
      <td>${inside === null ? nothing : html`<span class="badge ${inside ? "good" : "warn"}">${inside ? "as expected" : "outside"}</span>`}</td></tr>`)}</tbody></table></div>`;
}

function histogram({ label: score, edges, sets: shares }) {
  const sets = shares.map(({ set, shares: bars }) => ({ label: set, shares: bars }));
  return html`<div class="stack"><h3>${score}</h3>${outlines({ edges, sets }, `Histograms of ${score}: ${sets.map(({ label }) => label).join(", ")}`)}</div>`;
}

function details(set, evaluation) {
  const { normal } = evaluation;
  const curves = set.curves.slice(0, MAX_CURVES).map(({ score, points }) => ({ label: labelOf(evaluation, score), points }));
  const scores = evaluation.columns.filter(({ family }) => HEADLINE.has(family));
  return html`<details><summary>${set.name}: ROC curves, all scores, extreme images</summary>
    <div class="columns">
      <div class="stack"><h3>ROC</h3>${roc(curves, `ROC curves of ${set.name}`)}</div>
      <div class="stack"><h3>Scores</h3><div class="scroll"><table class="rows"><thead><tr><th>score</th><th class="num">AUROC</th><th class="num">average precision</th><th class="num">FPR at 95 %</th></tr></thead>
        <tbody>${scores.map(({ name, label }) => {
          const result = resultOf(set, name);
          return html`<tr><th scope="row" class="small">${label}</th><td class="num" data-label="AUROC">${fixed(result.auroc, 4)}</td>
            <td class="num" data-label="average precision">${fixed(result.aupr, 4)}</td><td class="num" data-label="FPR at 95 %">${fixed(100 * result.fpr95, 1)} %</td></tr>`;
        })}</tbody></table></div></div>
    </div>
    ${gallery(`Most anomalous of ${set.name}`, set.gallery.most)}${gallery(`Least anomalous of ${set.name} (missed first)`, set.gallery.least)}
    ${gallery(`Most anomalous of ${normal.name} (false alarms first)`, normal.gallery.most)}
  </details>`;
}

function gallery(title, examples) {
  return html`<h3>${title}</h3><ul class="gallery">${examples.slice(0, GALLERY_SIZE).map((image) => html`<li><img class="pixels" src="data:image/png;base64,${image.png}" alt=${image.name} title=${[image.name, image.reason].filter(Boolean).join(": ")} width="64" height="64">
    <span class="small faint">p ${brief(image.p_value, 2)}</span></li>`)}</ul>`;
}

function resultOf(set, score) {
  return set.results.find((result) => result.score === score);
}

function labelOf(evaluation, score) {
  return evaluation.columns.find(({ name }) => name === score).label;
}

function percent(share) {
  return share == null ? "not attainable" : `${fixed(100 * share, 1)} %`;
}
