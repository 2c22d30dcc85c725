// The Detection limit tab: the smallest defects that the model finds, as table and curves, and a form to measure them.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { brief, count, fixed, moment, shape, whole } from "../format.js";
import { facts, failure, notice, waiting } from "../parts.js";
import { get } from "../service.js";
import { DatasetForm, refusal, submit } from "./dataset_form.js";
import { shares } from "./plots.js";

const IMAGES = 200;
const MIN_IMAGES = 29;
const SHAPES = [["scratch", "scratch"], ["spot", "spot"], ["stain", "stain"], ["hole", "hole"], ["missing-part", "missing part"]];

export class Limits {
  constructor(subject, redraw) {
    [this.subject, this.redraw] = [subject, redraw];
    this.limits = this.active = this.error = null;
    this.chosen = null; // the number of the shown limit; null for the best one
    this.datasets = new DatasetForm(redraw, () => ({ type: "limit", model: subject.exact }));
    this.dataset = null;
    this.busy = false;
    this.submitted = this.refused = this.awaited = null;
  }

  start() {
    this.datasets.load();
  }

  back() {
    this.datasets.load();
  }

  async refresh() {
    try {
      const { limits, active } = await get(this.subject.path("/limits"));
      Object.assign(this, { limits, active, error: null });
      if (limits.some(({ limit }) => limit.job === this.awaited)) this.awaited = this.chosen = null;
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  async submit(event) {
    event.preventDefault();
    const fields = new FormData(event.target);
    const alpha = fields.get("alpha");
    const parameters = { images: Number(fields.get("images")), shapes: fields.getAll("shapes"), ...(alpha && { alpha: Number(alpha) / 100 }) };
    [this.busy, this.refused] = [true, null];
    this.redraw();
    try {
      const json = { type: "limit", model: this.subject.exact, dataset: fields.get("good"), parameters };
      this.submitted = await get("/v1/jobs", { method: "POST", json });
      this.awaited = this.submitted.id; // its limit is shown when it is measured
    } catch (error) {
      this.refused = error;
    }
    this.busy = false;
    this.redraw();
  }

  /** The limit to show: the chosen one, else the newest of the calibration in use, else the newest. */
  get shown() {
    return this.limits.find(({ number }) => number === this.chosen) ?? this.limits.find(({ in_use: inUse }) => inUse) ?? this.limits[0];
  }

  view() {
    if (!this.limits) return this.error ? failure(this.error, () => this.refresh()) : waiting();
    return html`${this.error ? failure(this.error, () => this.refresh()) : nothing}
      ${this.limits.length ? this.limit(this.shown) : html`<section class="card"><h2>Detection limit</h2>
        <p class="empty">No detection limit of version ${this.subject.version} has been measured yet. It says which defects, of which size and contrast, the model finds in your good images. Measure it below.</p></section>`}
      ${this.form()}`;
  }

  limit({ number, in_use: inUse, limit }) {
    return html`<section class="card"><header><h2>Detection limit</h2>${this.limits.length > 1 ? this.choice(number) : nothing}</header>
        ${inUse ? nothing : notice(`This limit is of calibration ${limit.calibration}. Calibration ${this.active} is in use now: measure the limit again.`, "warn")}
        ${notice(limit.not_determinable && `Not determinable: ${limit.not_determinable}.`, "warn")}
        <p class="faint">The smallest size from which on at least 90 % of the defects are found, with a confidence of 95 %. Sizes are pixels of the model's images, ${shape(limit.image_shape)}.</p>
        ${limit.curves.length ? table(limit) : nothing}</section>
      ${limit.curves.length ? html`<section class="card"><h2>Found share by size</h2>${plots(limit)}</section>` : nothing}
      <section class="card"><h2>How it was measured</h2>${conditions(number, limit)}</section>`;
  }

  choice(number) {
    return html`<div class="row"><label for="limit">Measurement</label><select id="limit" class="narrow" .value=${live(String(number))} @change=${(event) => { this.chosen = Number(event.target.value); this.redraw(); }}>
      ${repeat(this.limits, (entry) => entry.number, ({ number: other, limit }) => html`<option value=${other} ?selected=${other === number}>${other} · ${limit.dataset}, calibration ${limit.calibration}</option>`)}</select></div>`;
  }

  form() {
    const chosen = this.dataset ?? this.datasets.suggested ?? "";
    return html`<section class="card"><h2>Measure the detection limit</h2>
      <form class="stack" @submit=${(event) => this.submit(event)}>
        <p class="faint">Defects are drawn into good images that the model has not used: lines, spots, stains, holes and missing parts of several sizes and contrasts. This takes seconds to minutes.</p>
        <div class="columns">
          <div class="stack">${this.datasets.choice("good", "Good images", chosen, (name) => { this.dataset = name; this.redraw(); })}
            <div class="field"><label for="limit-images">Maximum images</label><input id="limit-images" name="images" type="number" min=${MIN_IMAGES} max="10000" .defaultValue=${String(IMAGES)} required></div>
            <div class="field"><label for="limit-alpha">False-alarm rate, %</label><input id="limit-alpha" name="alpha" type="number" min="0.0001" max="99" step="any" placeholder="1, or the smallest attainable"></div></div>
          <fieldset><legend>Defects</legend><div class="stack">
            ${SHAPES.map(([value, label]) => html`<label class="check"><input type="checkbox" name="shapes" value=${value} checked> ${label}</label>`)}</div></fieldset>
        </div>
        ${refusal(this.refused)}
        ${submit("Measure", this.datasets.missing(chosen, "good images"), this.busy, this.submitted)}
      </form></section>`;
  }
}

const named = ({ shape: kind, contrast }) => `${kind.replace("-", " ")}${contrast == null ? "" : `, ${contrast} grey levels`}`;
const percent = (value) => `${fixed(100 * value, 1)} %`;
const sizeText = ({ limit, cells }) => (limit == null ? `none up to ${cells.at(-1).size}` : `${limit}`);

function table({ curves }) {
  const line = (curve) => {
    const cell = curve.cells.find(({ size }) => size === (curve.limit ?? curve.cells.at(-1).size));
    return html`<tr><th scope="row">${named(curve)}</th>
      <td class="num" data-label="limit, pixels">${curve.limit == null ? html`<span class="faint">${sizeText(curve)}</span>` : html`<strong>${sizeText(curve)}</strong>`}</td>
      <td class="num" data-label="found">${cell.found} of ${cell.images}</td>
      <td class="num" data-label="at least">${percent(cell.lower)}</td></tr>`;
  };
  return html`<div class="scroll"><table class="rows limits">
    <thead><tr><th>defect</th><th class="num">limit, pixels</th><th class="num">found at this size</th><th class="num">at least (95 % sure)</th></tr></thead>
    <tbody>${curves.map(line)}</tbody></table></div>`;
}

function plots({ curves, sizes, contrasts }) {
  const order = [...contrasts].sort((a, b) => a - b);
  const shapes = [...new Set(curves.map((curve) => curve.shape))];
  return html`<p class="faint">Bars and bands are 95 % bounds, the dashed line is the goal of 90 %, a ring marks the limit. Sizes of which hardly half are found end a curve.</p>
    <div class="limit-plots">${shapes.map((kind) => {
    const drawn = curves.filter((curve) => curve.shape === kind)
      .map((curve) => ({ ...curve, label: curve.contrast == null ? named(curve) : `${curve.contrast} grey levels`, index: Math.max(0, order.indexOf(curve.contrast)) }));
    const text = drawn.map((curve) => `${curve.label}: ${sizeText(curve)}`).join(", ");
    return html`<div class="stack tight"><h3>${kind.replace("-", " ")}</h3>${shares(drawn, sizes, `Found share of ${kind.replace("-", " ")} by size; limit in pixels: ${text}`)}</div>`;
  })}</div>`;
}

function conditions(number, limit) {
  const { undamaged } = limit;
  const alarms = undamaged.interval && `${undamaged.flagged} of ${undamaged.images} without a defect (${undamaged.interval.map(percent).join(" to ")})`;
  return facts([
    ["measurement", `${number}, ${moment(limit.created)}, ${brief(limit.seconds)} s`],
    ["job", limit.job && html`<a href="#/train/${limit.job}">${limit.job}</a>`],
    ["good images", `${count(limit.images, "image")} of ${limit.dataset} (${limit.part})`],
    ["false alarms", alarms],
    ["false-alarm rate", `${brief(100 * limit.alpha)} %: a defect is found if the p-value of its image is at most this`],
    ["calibration", `${limit.calibration}, ${whole(limit.calibration_images)} images`],
    ["sizes", `${limit.sizes.join(", ")} pixels`],
    ["contrasts", `${limit.contrasts.join(", ")} grey levels; a hole is black, a missing part has the mean of its surroundings`],
    ["seed", String(limit.seed)],
    ["weights", html`<code class="break">${limit.weights_sha256.slice(0, 16)}</code>`],
  ]);
}
