// Details of a scored image: heat map, reasons, comparison with the calibration images, and scores.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, count, fixed, whole } from "../format.js";
import { facts, notice, waiting } from "../parts.js";
import { SHOWN } from "./intake.js";
import { zoom } from "./zoom.js";
import "../charts.js";

const HEAT = "snf-heat-map"; // in the local storage: the opacity of heat maps in percent
const COLOURS = "Colour starts at the threshold: amber, and red from three times the threshold on. Blue is as much more likely than normal.";
const KINDS = { density: "density of pixels", feature_density: "density of features", lower_bound: "lower bound" };

/** Sets the opacity of all heat maps. A style property, so that it is shown at once in every picture. */
function setHeat(percent) {
  localStorage.setItem(HEAT, percent);
  document.documentElement.style.setProperty("--heat", `${percent}%`);
}
setHeat(localStorage.getItem(HEAT) ?? 100);

/** Renders the details of a scored image. `reference` is the histogram of the calibration in use; null while it loads.
 *  `outdated`: the image was scored by an earlier calibration, with which it cannot be compared any more. */
export function detail(item, { alpha, reference, outdated, shape }) {
  const { result, explained } = item;
  const verdict = result.anomaly;
  const flagged = verdict.p_value <= alpha;
  return html`<div class="detail">
    <p class="notice ${flagged ? "bad" : ""}">${verdictText(verdict, alpha, flagged)}</p>
    ${notice(result.preprocessing?.warning, "warn")}
    ${notice(result.preprocessing?.notes?.join("; "))}
    <div class="pictures">
      ${framed(item, result, explained, shape)}
      <div class="stack why">
        ${explained ? nothing : item.explaining instanceof Error ? notice(item.explaining.message, "warn") : waiting("Computing the heat map ...")}
        <h2>Evidence for an anomaly</h2>
        ${verdict.reasons?.length ? html`<ul class="reasons">${verdict.reasons.map(reason)}</ul>` : html`<p class="faint">No feature stands out.</p>`}
      </div>
    </div>
    <div class="columns">
      <section class="stack">
        <h2>Compared with ${reference ? whole(reference.count) : "the"} calibration images</h2>
        ${reference ? histogram(verdict, reference, alpha, flagged) : outdated ? notice("Score all images again to compare this one.") : waiting()}
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
    <span class="faint small">${percent} % of the evidence, ${feature.startsWith("feature-") ? `${fixed(z, 1)} nats` : `z-score ${fixed(z, 1)}`}</span></li>`;
}

function regionsText({ heat_map, anomaly }) {
  if (heat_map.regions == null) return "Calibrate the model again to see colours and regions.";
  const rate = `at a false-alarm rate of ${brief(100 * anomaly.alpha, 3)} %`;
  if (!heat_map.region_count) return `${COLOURS} No region stands out ${rate}.`;
  const shown = heat_map.regions.length < heat_map.region_count ? `, the strongest ${heat_map.regions.length} are framed` : "";
  return `${COLOURS} Outlined in yellow: ${count(heat_map.region_count, "region")} ${rate}${shown}. The largest has ${whole(Math.max(...heat_map.regions.map(({ area }) => area)))} pixels of the file.`;
}

// The whole file, which browsers turn by its EXIF orientation as the service does. Boxes are in its pixels. The picture can be
// clicked, too; the button is there for the keyboard. A file that browsers cannot show is replaced by the pixels of the model.
// The content security policy forbids style attributes; setting the `style` property is allowed.
function framed(item, result, explained, shape) {
  const { fit, size } = result.preprocessing ?? {};
  const heat = explained?.heat_map;
  const isShown = SHOWN.test(item.file.type);
  if (!isShown && !heat) return html`<p class="empty">This browser cannot show the file.</p>`;
  const [width, height] = (isShown && size) || [shape[2], shape[1]];
  const answer = isShown ? explained ?? result : { anomaly: {} };
  const boxes = new Map([...(answer.anomaly.reasons ?? []), ...(answer.heat_map?.regions ?? [])]
    .filter(({ box }) => box).map(({ box }) => [String(box), box]));
  const place = ([left, top, right, bottom]) => `left: ${(100 * left) / width}%; top: ${(100 * top) / height}%; width: ${(100 * (right - left)) / width}%; height: ${(100 * (bottom - top)) / height}%`;
  const model = seen(width, height, shape, isShown ? fit : null);
  const overlay = html`${heat && isShown ? html`<img class="heat" alt="Heat map" src=${`data:image/png;base64,${heat.layer}`} .style=${place(model)}>` : nothing}
    ${isShown && fit === "crop" ? html`<i class="seen" .style=${place(model)}></i>` : nothing}${[...boxes.values()].map((box) => html`<i .style=${place(box)}></i>`)}`;
  const [src, alt] = isShown ? [item.url, ""] : [`data:image/png;base64,${heat.png}`, "Heat map"];
  const enlarge = () => zoom({ title: item.name, src, size: [width, height], overlay });
  return html`<figure class="figure"><div class="framed zoomable" .style=${`width: ${100 * Math.min(1, width / height)}%`} @click=${enlarge}><img src=${src} alt=${alt} class="pixels" .style=${`aspect-ratio: ${width} / ${height}`}>
    ${overlay}</div>
    <div class="row between"><button type="button" class="link small" aria-label="Zoom the image" @click=${enlarge}>Zoom</button>
      ${heat && isShown ? html`<label class="row small nowrap">Heat map opacity <input type="range" min="0" max="100" step="5" .value=${localStorage.getItem(HEAT)} @input=${({ target }) => setHeat(target.value)}></label>` : nothing}</div>
    <figcaption>${isShown ? "" : "This browser cannot show the file, so these are the pixels that the model sees. "}${heat ? regionsText(explained) : nothing}
      ${isShown && fit === "crop" ? "The model sees what is inside the dashed frame." : nothing}</figcaption></figure>`;
}

/** Returns the box of the model's image in pixels of the file, of which `crop` sees the middle and which `pad` extends. */
function seen(width, height, [, rows, columns], fit) {
  const across = [width / columns, height / rows];
  if (fit !== "crop" && fit !== "pad") return [0, 0, width, height];
  const scale = (fit === "crop" ? Math.min : Math.max)(...across);
  const [left, top] = [(width - scale * columns) / 2, (height - scale * rows) / 2];
  return [left, top, width - left, height - top];
}

function histogram(verdict, reference, alpha, flagged) {
  const marks = [{ x: verdict.statistic, label: "this image", colour: flagged ? "--bad" : "--accent" }];
  const limit = threshold(reference.quantiles, alpha);
  // With several folds an image has a statistic by each, whose mean may lie on the other side.
  if (limit !== null && flagged === verdict.statistic >= limit) marks.push({ x: limit, label: "flagged above", colour: "--faint", dashed: true });
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
