// What the service found in a dataset: how its images are shared out, their sizes, doubles, what was left out and why.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes, count, moment, whole } from "../format.js";
import { facts } from "../parts.js";

const PARTS = [
  ["train", "train the flow"], ["statistics", "say what is usual"], ["calibration", "give p-values"], ["test", "only measure"],
];
const SIZES = 5;
const GROUPS = 8;

/** `found` is the report of an upload; built-in datasets have none. */
export function report(entry, found) {
  return html`${shares(entry)}
    ${facts([
      ["size", range(entry)],
      ["sizes", found && found.different_sizes > 1 ? sizes(found) : null],
      ["formats", found ? tally(found.formats) : null],
      ["with colour", found && found.coloured ? `${whole(found.coloured)} of ${whole(found.images)}` : null],
      ["duplicates", found ? doubles(found.duplicates) : null],
      ["near duplicates", found && found.near_duplicates.images ? doubles(found.near_duplicates) : null],
      ["groups", found && found.different_groups > 1 ? groups(found) : null],
      ["files", bytes(entry.bytes)],
      ["uploaded", entry.created ? moment(entry.created) : null],
    ])}
    ${found?.notes.length ? html`<ul class="notes small">${found.notes.map((one) => html`<li>${one}</li>`)}</ul>` : nothing}
    ${found?.rejected ? rejected(found) : nothing}`;
}

function shares(entry) {
  const parts = PARTS.filter(([name]) => entry[name]);
  return html`<div class="stack">
    <div class="shares" aria-hidden="true">${parts.map(([name]) => html`<i class=${name} .style=${`flex-grow: ${entry[name]}`}></i>`)}</div>
    <ul class="legend small">${parts.map(([name, purpose]) => html`<li><i class=${name} aria-hidden="true"></i>${whole(entry[name])} ${
      name === "statistics" && entry.folds ? `say what is usual and give p-values, in ${entry.folds} folds` : purpose}</li>`)}</ul>
  </div>`;
}

const range = ({ smallest: [w, h], largest: [W, H] }) => (w === W && h === H ? `${w}×${h}` : `${w}×${h} to ${W}×${H}`);
const tally = (counts) => Object.entries(counts).map(([name, n]) => `${whole(n)} ${name}`).join(", ");

function sizes(found) {
  const shown = found.sizes.slice(0, SIZES).map((one) => `${whole(one.images)} of ${one.width}×${one.height}`);
  return `${shown.join(", ")}${found.different_sizes > SIZES ? `, ${whole(found.different_sizes - SIZES)} more sizes` : ""}`;
}

function groups(found) {
  const shown = Object.entries(found.groups).slice(0, GROUPS).map(([name, n]) => `${name || "(no folder)"} ${whole(n)}`);
  return `${shown.join(", ")}${found.different_groups > GROUPS ? `, ${whole(found.different_groups - GROUPS)} more` : ""}`;
}

function doubles({ images, sets, examples }) {
  if (!images) return "none";
  return html`<details><summary>${count(images, "image")} in ${count(sets, "set")}</summary>
    <ul class="notes small">${examples.map((paths) => html`<li class="break">${paths.join(" = ")}</li>`)}</ul></details>`;
}

function rejected(found) {
  return html`<details open class="rejected"><summary>${count(found.rejected, "file")} left out</summary>
    <div class="scroll" tabindex="0" role="region" aria-label="Files left out"><table><thead><tr><th>file</th><th>why</th></tr></thead>
      <tbody>${found.rejected_files.map((one) => html`<tr><th class="break" scope="row">${one.path}</th><td>${one.reason}</td></tr>`)}</tbody></table></div>
    ${found.rejected > found.rejected_files.length ? html`<p class="small faint">The first ${whole(found.rejected_files.length)} are shown.</p>` : nothing}
  </details>`;
}
