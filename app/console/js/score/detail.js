// Details of a scored image: heat map, reasons, comparison with the calibration images, and scores.
import { html } from "../../vendor/lit-html/lit-html.js";
import { brief, fixed, whole } from "../format.js";
import { facts, notice, waiting } from "../parts.js";
import { SHOWN } from "./intake.js";
import "../charts.js";

const SIDE = 224; // pixels of a picture on the screen
const KINDS = { density: "density of pixels", feature_density: "density of features", lower_bound: "lower bound" };

/** Renders the details of a scored image. `reference` is the histogram of the calibration in use; null while it loads. */
export function detail(item, { alpha, reference, shape }) {
  const { result, explained } = item;
  const verdict = result.anomaly;
  const flagged = verdict.p_value <= alpha;
  return html`<div class="detail">
    <p class="notice ${flagged ? "bad" : ""}">${verdictText(verdict, alpha, flagged)}</p>
    ${notice(result.preprocessing?.warning, "warn")}
    ${notice(result.preprocessing?.notes?.join("; "))}
    <div class="pictures">
      ${framed(picture(item, result.preprocessing?.fit, shape), SHOWN.test(item.file.type) ? verdict.reasons : [], shape, "Image with anomalous regions framed")}
      ${explained?.heat_map
        ? html`<figure class="figure"><img src="data:image/png;base64,${explained.heat_map.png}" alt="Heat map" class="pixels" width=${SIDE} .style=${`aspect-ratio: ${shape[2]} / ${shape[1]}; height: auto`}>
            <figcaption>Red regions are less likely than normal, blue regions more likely (z-scores ${fixed(explained.heat_map.lowest_z, 1)} to ${fixed(explained.heat_map.highest_z, 1)})</figcaption></figure>`
        : item.explaining instanceof Error ? notice(item.explaining.message, "warn") : waiting("Computing the heat map ...")}
      <div class="stack why">
        <h2>Evidence for an anomaly</h2>
        ${verdict.reasons?.length ? html`<ul class="reasons">${verdict.reasons.map(reason)}</ul>` : html`<p class="faint">No feature stands out.</p>`}
      </div>
    </div>
    <div class="columns">
      <section class="stack">
        <h2>Compared with ${reference ? whole(reference.count) : "the"} calibration images</h2>
        ${reference ? histogram(verdict, reference, alpha, flagged) : waiting()}
      </section>
      <section class="stack">
        <h2>Scores</h2>
        ${facts([
          ["log-likelihood", `${fixed(result.log_likelihood, 3)} nats (${KINDS[result.kind] ?? result.kind})`],
          ["bits per dimension", result.bits_per_dim === null ? null : fixed(result.bits_per_dim, 4)],
          ["p-value", `${brief(verdict.p_value, 4)}${verdict.extrapolated ? " (beyond all calibration images)" : ""}`],
          ["statistic T", `${brief(verdict.statistic, 4)} nats`],
          ["converted", result.preprocessing?.converted],
          ["resized", result.preprocessing?.resized ? "yes" : null],
        ])}
        <details><summary>Log-likelihood by ${result.kind === "feature_density" ? "term" : "scale"}</summary>${terms(result)}</details>
      </section>
    </div>
  </div>`;
}

function verdictText(verdict, alpha, flagged) {
  const p = brief(verdict.p_value, 3);
  const rare = verdict.extrapolated
    ? "More anomalous than every calibration image"
    : `About ${brief(100 * verdict.p_value, 3)} % of normal images are at least as anomalous`;
  return flagged
    ? html`<strong>Anomaly.</strong> ${rare}: p = ${p}, at or below the false-alarm rate of ${brief(100 * alpha, 3)} %.`
    : html`<strong>Normal.</strong> ${rare}: p = ${p}, above the false-alarm rate of ${brief(100 * alpha, 3)} %.`;
}

function reason({ share, text, feature, z }) {
  const percent = Math.round(100 * share);
  return html`<li><span>${text}</span>
    <span class="bar" aria-hidden="true"><i .style=${`width: ${percent}%`}></i></span>
    <span class="faint small">${percent} % of the evidence, ${feature === "gradients" || feature.startsWith("feature-") ? `${fixed(z, 1)} nats` : `z-score ${fixed(z, 1)}`}</span></li>`;
}

// What the model sees of an image: browsers turn it by its EXIF orientation as the service does, and the fit is that of
// the model. The boxes are in pixels of this view.
const FITS = { crop: "cover", pad: "contain", stretch: "fill" };

// The content security policy forbids style attributes; setting the `style` property is allowed.
function picture({ file, url }, fit, [, height, width]) {
  if (!SHOWN.test(file.type)) return html`<p class="empty">This browser cannot show the file; the heat map shows its pixels.</p>`;
  return html`<img src=${url} alt="" class="pixels"
    .style=${`object-fit: ${FITS[fit] ?? "fill"}; aspect-ratio: ${width} / ${height}; height: auto; background: ${fit === "pad" ? "#000" : "none"}`}>`;
}

function framed(picture, reasons, shape, caption) {
  const boxes = (reasons ?? []).map((entry) => entry.box).filter(Boolean);
  const [, height, width] = shape;
  const percent = (value, of) => `${(100 * value) / of}%`;
  return html`<figure class="figure"><div class="framed">${picture}
    ${boxes.map(([left, top, right, bottom]) => html`<i .style=${`left: ${percent(left, width)}; top: ${percent(top, height)}; width: ${percent(right - left, width)}; height: ${percent(bottom - top, height)}`}></i>`)}</div><figcaption>${caption}</figcaption></figure>`;
}

function histogram(verdict, reference, alpha, flagged) {
  const marks = [{ x: verdict.statistic, label: "this image", colour: flagged ? "--bad" : "--accent" }];
  const limit = threshold(reference.quantiles, alpha);
  if (limit !== null) marks.push({ x: limit, label: "flagged above", colour: "--faint", dashed: true });
  const summary = `Histogram of statistic T of ${reference.count} calibration images; this image has ${brief(verdict.statistic, 3)} nats, p-value ${brief(verdict.p_value, 3)}`;
  return html`<snf-histogram aria-label=${summary} .x=${"statistic T, nats (high: anomalous)"} .histogram=${reference} .marks=${marks}></snf-histogram>`;
}

/** Interpolates the statistic from which images are flagged at `alpha`. Used for drawing only. */
function threshold(quantiles, alpha) {
  const known = [...quantiles].sort((a, b) => a.alpha - b.alpha);
  const next = known.findIndex((quantile) => quantile.alpha >= alpha * (1 - 1e-9));
  if (next < 0) return null;
  const [above, below] = [known[next], known[Math.max(0, next - 1)]];
  if (above === below) return above.statistic;
  const weight = (Math.log(alpha) - Math.log(below.alpha)) / (Math.log(above.alpha) - Math.log(below.alpha));
  return below.statistic + weight * (above.statistic - below.statistic);
}

// A density of features has no term of the pixels, and one scale.
function terms(result) {
  const shown = result.kind === "feature_density" ? result.terms.filter(({ scale }) => scale > 0) : result.terms;
  const name = ({ scale }) => (result.kind === "feature_density" ? "features" : scale === 0 ? "0, pixels" : scale);
  return html`<div class="scroll"><table>
    <thead><tr><th>scale</th><th class="num">log prior</th><th class="num">log-determinant</th><th class="num">sum</th></tr></thead>
    <tbody>${shown.map((term) => html`<tr><th>${name(term)}</th><td class="num">${fixed(term.log_prior, 2)}</td>
      <td class="num">${fixed(term.log_det, 2)}</td><td class="num">${fixed(term.log_prior + term.log_det, 2)}</td></tr>`)}
    <tr><th>all</th><td></td><td></td><td class="num"><strong>${fixed(result.log_likelihood, 2)}</strong></td></tr></tbody></table></div>`;
}
