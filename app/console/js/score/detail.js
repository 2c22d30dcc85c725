// One image opened: where the density is unusual, why in words, and its place among the calibration images.
import { html } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed, whole } from "../format.js";
import { facts, notice, waiting } from "../parts.js";
import "../charts.js";

const SIDE = 224; // pixels of a picture on the screen

/** `reference` is the histogram of the calibration in use, null where it is not known (yet). */
export function detail(item, { alpha, reference, shape }) {
  const { result, explained } = item;
  const verdict = result.anomaly;
  const flagged = verdict.p_value <= alpha;
  return html`<div class="detail">
    <p class="notice ${flagged ? "bad" : ""}">${words(verdict, alpha, flagged)}</p>
    ${notice(result.preprocessing?.warning, "warn")}
    <div class="pictures">
      ${framed(html`<img src=${item.url} alt="" class="pixels" width=${SIDE} height=${SIDE}>`, verdict.reasons, shape, "The image, strange regions framed")}
      ${explained?.heat_map
        ? html`<figure class="figure"><img src="data:image/png;base64,${explained.heat_map.png}" alt="Heat map" class="pixels" width=${SIDE} height=${SIDE}>
            <figcaption>Where it is unusual: red less likely than usual, blue more (${fixed(explained.heat_map.lowest_z, 1)} to ${fixed(explained.heat_map.highest_z, 1)} deviations)</figcaption></figure>`
        : item.explaining instanceof Error ? notice(item.explaining.message, "warn") : waiting("Drawing the heat map ...")}
      <div class="stack why">
        <h2>What speaks for an anomaly</h2>
        ${verdict.reasons?.length ? html`<ul class="reasons">${verdict.reasons.map(reason)}</ul>` : html`<p class="faint">Nothing in particular.</p>`}
      </div>
    </div>
    <div class="columns">
      <section class="stack">
        <h2>Its place among ${reference ? whole(reference.count) : ""} calibration images</h2>
        ${reference ? place(verdict, reference, alpha, flagged) : waiting()}
      </section>
      <section class="stack">
        <h2>The number</h2>
        ${facts([
          ["log-likelihood", `${fixed(result.log_likelihood, 3)} nats${result.kind === "density" ? " (density)" : " (lower bound)"}`],
          ["bits per dimension", fixed(result.bits_per_dim, 4)],
          ["p-value", `${brief(verdict.p_value, 4)}${verdict.extrapolated ? " (no calibration image was as strange)" : ""}`],
          ["evidence T", `${brief(verdict.statistic, 4)} nats`],
          ["converted", result.preprocessing?.converted],
          ["resized", result.preprocessing?.resized ? "yes" : null],
        ])}
        <details><summary>Terms by scale</summary>${terms(result)}</details>
      </section>
    </div>
  </div>`;
}

function words(verdict, alpha, flagged) {
  const p = brief(verdict.p_value, 3);
  const rare = verdict.extrapolated
    ? "No image of the calibration set was as strange"
    : `Of good images ${brief(100 * verdict.p_value, 3)} % are as strange as this one or stranger`;
  return flagged
    ? html`<strong>Anomaly.</strong> ${rare}: p = ${p}, at most the false-alarm rate of ${brief(100 * alpha, 3)} %.`
    : html`<strong>Normal.</strong> ${rare}: p = ${p}, above the false-alarm rate of ${brief(100 * alpha, 3)} %.`;
}

function reason(one) {
  const percent = Math.round(100 * one.share);
  return html`<li><span>${one.text}</span>
    <span class="bar" aria-hidden="true"><i .style=${`width: ${percent}%`}></i></span>
    <span class="faint small">${percent} % of the evidence, ${one.feature === "gradients" ? `${fixed(one.z, 1)} nats` : `${fixed(one.z, 1)} deviations`}</span></li>`;
}

// The policy of the page allows no style attributes, but properties.
// Boxes are in pixels of what the model sees; only where that is the whole picture can they be drawn on it.
function framed(picture, reasons, shape, caption) {
  const boxes = (reasons ?? []).map((one) => one.box).filter(Boolean);
  const [, height, width] = shape;
  const percent = (value, of) => `${(100 * value) / of}%`;
  return html`<figure class="figure"><div class="framed">${picture}
    ${boxes.map(([left, top, right, bottom]) => html`<i .style=${`left: ${percent(left, width)}; top: ${percent(top, height)}; width: ${percent(right - left, width)}; height: ${percent(bottom - top, height)}`}></i>`)}</div><figcaption>${caption}</figcaption></figure>`;
}

function place(verdict, reference, alpha, flagged) {
  const marks = [{ x: verdict.statistic, label: "this image", colour: flagged ? "--bad" : "--accent" }];
  const limit = threshold(reference.quantiles, alpha);
  if (limit !== null) marks.push({ x: limit, label: "flagged from here", colour: "--faint", dashed: true });
  const summary = `Histogram of the evidence of ${reference.count} calibration images; this image has ${brief(verdict.statistic, 3)} nats, p-value ${brief(verdict.p_value, 3)}`;
  return html`<snf-histogram aria-label=${summary} .x=${"evidence T, nats: further right is stranger"} .found=${reference} .marks=${marks}></snf-histogram>`;
}

/** The evidence from which images are flagged at `alpha`, between those that are told; for drawing alone. */
function threshold(quantiles, alpha) {
  const known = [...quantiles].sort((a, b) => a.alpha - b.alpha);
  const next = known.findIndex((one) => one.alpha >= alpha * (1 - 1e-9));
  if (next < 0) return null;
  const [above, below] = [known[next], known[Math.max(0, next - 1)]];
  if (above === below) return above.statistic;
  const way = (Math.log(alpha) - Math.log(below.alpha)) / (Math.log(above.alpha) - Math.log(below.alpha));
  return below.statistic + way * (above.statistic - below.statistic);
}

function terms(result) {
  return html`<div class="scroll"><table>
    <thead><tr><th>scale</th><th class="num">log prior</th><th class="num">log-determinant</th><th class="num">sum</th></tr></thead>
    <tbody>${result.terms.map((one) => html`<tr><th>${one.scale === 0 ? "0, pixels" : one.scale}</th><td class="num">${fixed(one.log_prior, 2)}</td>
      <td class="num">${fixed(one.log_det, 2)}</td><td class="num">${fixed(one.log_prior + one.log_det, 2)}</td></tr>`)}
    <tr><th>all</th><td></td><td></td><td class="num"><strong>${fixed(result.log_likelihood, 2)}</strong></td></tr></tbody></table></div>`;
}
