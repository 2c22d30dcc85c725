// The report of a dataset: split, image sizes, near duplicates and rejected files.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes, count, moment, whole } from "../format.js";
import { facts } from "../parts.js";

const PARTS = [
  ["train", "training"], ["statistics", "reference statistics"], ["calibration", "calibration"], ["test", "test"],
];
const MAX_SIZES = 5;
const MAX_GROUPS = 8;

const KINDS = { image: "image file", tar: "tar archive", parquet: "Parquet file" };

/**
 * Renders a dataset. `detail` has the report of its images and its reference; null until it is loaded. `again` uploads
 * its files again without near duplicates; null if this page does not have them.
 */
export function report(entry, detail, again) {
  const details = detail?.report ?? null;
  const reference = detail?.reference ?? null;
  return html`${shares(entry)}
    ${facts([
      ["location", entry.location ? html`<span class="break">${entry.location}</span>` : null],
      ["at the location", reference ? Object.entries(reference.files).map(([kind, n]) => count(n, KINDS[kind])).join(", ") : null],
      ["inspected", entry.image_shape.length ? null : "no: only jobs of type score take it"],
      ["size", entry.image_shape.length ? range(entry) : null],
      ["sizes", details && details.different_sizes > 1 ? sizes(details) : null],
      ["formats", details ? tally(details.formats) : null],
      ["with colour", details && details.coloured ? `${whole(details.coloured)} of ${whole(details.images)}` : null],
      ["duplicates", details ? alike(details.duplicates, "set") : null],
      ["near duplicates", details ? nearDuplicates(details.near_duplicates, again) : null],
      ["groups", details && details.different_groups > 1 ? groups(details) : null],
      ["files", bytes(entry.bytes)],
      [entry.location ? "referred to" : "uploaded", entry.created ? moment(entry.created) : null],
    ])}
    ${details?.notes.length ? html`<ul class="remarks small">${details.notes.map((note) => html`<li>${note}</li>`)}</ul>` : nothing}
    ${details?.rejected ? rejected(details) : reference?.rejected ? rejected(reference) : nothing}`;
}

function shares(entry) {
  const parts = PARTS.filter(([name]) => entry[name]);
  return html`<div class="stack">
    <div class="shares" aria-hidden="true">${parts.map(([name]) => html`<i class=${name} .style=${`flex-grow: ${entry[name]}`}></i>`)}</div>
    <ul class="shares-legend small">${parts.map(([name, purpose]) => html`<li><i class=${name} aria-hidden="true"></i>${whole(entry[name])} ${
      name === "statistics" && entry.folds ? `reference statistics and calibration, in ${entry.folds} folds` : purpose}</li>`)}</ul>
  </div>`;
}

const range = ({ smallest: [w, h], largest: [W, H] }) => (w === W && h === H ? `${w}×${h}` : `${w}×${h} to ${W}×${H}`);
const tally = (counts) => Object.entries(counts).map(([name, n]) => `${whole(n)} ${name}`).join(", ");

function sizes(details) {
  const shown = details.sizes.slice(0, MAX_SIZES).map(({ images, width, height }) => `${whole(images)} of ${width}×${height}`);
  return `${shown.join(", ")}${details.different_sizes > MAX_SIZES ? `, ${whole(details.different_sizes - MAX_SIZES)} more sizes` : ""}`;
}

function groups(details) {
  const shown = Object.entries(details.groups).slice(0, MAX_GROUPS).map(([name, n]) => `${name || "(no folder)"} ${whole(n)}`);
  return `${shown.join(", ")}${details.different_groups > MAX_GROUPS ? `, ${whole(details.different_groups - MAX_GROUPS)} more` : ""}`;
}

function alike({ images, sets, examples }, what) {
  if (!images) return "none";
  return html`<details><summary>${count(images, "image")} in ${count(sets, what)}</summary>
    <ul class="remarks small">${examples.map((paths) => html`<li class="break">${paths.join(what === "set" ? " = " : " ≈ ")}</li>`)}</ul>
    ${sets > examples.length ? html`<p class="small faint">Showing the first ${whole(examples.length)} ${what}s.</p>` : nothing}</details>`;
}

function nearDuplicates(near, again) {
  if (!near.images) return "none";
  return html`${alike(near, "pair")}
    ${again ? html`<button type="button" class="link small" @click=${again}>Upload again without near duplicates</button>` : nothing}`;
}

function rejected(details) {
  return html`<details open class="rejected"><summary>${count(details.rejected, "file")} rejected</summary>
    <div class="scroll" tabindex="0" role="region" aria-label="Rejected files"><table><thead><tr><th>file</th><th>reason</th></tr></thead>
      <tbody>${details.rejected_files.map(({ path, reason }) => html`<tr><th class="break" scope="row">${path}</th><td>${reason}</td></tr>`)}</tbody></table></div>
    ${details.rejected > details.rejected_files.length ? html`<p class="small faint">Showing the first ${whole(details.rejected_files.length)}.</p>` : nothing}
  </details>`;
}
