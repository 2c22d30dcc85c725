// The Overview tab: architecture, quality, training and serving of a version.
import { html } from "../../vendor/lit-html/lit-html.js";
import { smallestRate } from "../attainable.js";
import { brief, bytes, count, duration, fixed, moment, shape, whole } from "../format.js";
import { facts, waiting } from "../parts.js";

const FIT = { exact: "rejected", crop: "resized and centre-cropped", stretch: "stretched", pad: "resized, padded with black", tiles: "kept, scored tile by tile" };
const COLOUR = { exact: "rejected", grey: "converted to grey", rgb: "converted to colour" };
const TRANSFORM = {
  affine: "affine: pixels scaled to an interval",
  logit: "logit of the pixels",
  marginal: "marginal: distribution of grey levels in training",
};
const DIGEST_LENGTH = 12; // displayed characters of a commit or digest

export class Overview {
  constructor(subject) {
    this.subject = subject;
  }

  view() {
    const { detail } = this.subject;
    const { manifest } = detail;
    return html`<div class="columns two">
      <section class="card"><h2>Model</h2>${model(detail, manifest)}</section>
      <section class="card"><h2>Quality</h2>${quality(manifest)}</section>
      <section class="card"><h2>Training</h2>${training(manifest)}</section>
      <section class="card"><h2>Serving</h2>${serving(detail, manifest)}</section>
    </div>`;
  }
}

function model(detail, { architecture, preprocessing, created, training: { feature_fit: fit } }) {
  const features = featuresOf(architecture);
  return facts([
    ["architecture", describe(architecture)],
    ["log-likelihood", detail.kind === "density" ? "density of the pixels" : "density of the features"],
    ["backbone", features && html`${features.backbone} <span class="faint">images enlarged to ${features.input_width}×${features.input_height}, ${features.feature_channels} features at ${features.columns}×${features.rows} places</span>`],
    ["Glow steps", fit?.steps && html`${fit.steps.steps} ${fit.steps.kept ? "kept" : "tried and left out"} <span class="faint">held-out images ${fixed(fit.steps.gain, 1)} ± ${fixed(fit.steps.standard_error, 1)} nats likelier</span>`],
    ["grid", fit && html`${fit.grids[0].grid}×${fit.grids[0].grid} <span class="faint">shrinkage ${fit.grids[0].shrinkage}, chosen by held-out log-likelihood${fit.fits > 1 ? `, repeated without each of ${fit.fits - 1} folds` : ""}</span>`],
    [preprocessing.fit === "tiles" ? "tiles" : "images", `${shape([preprocessing.channels, preprocessing.height, preprocessing.width])}, ${whole(preprocessing.channels * preprocessing.height * preprocessing.width)} dimensions`],
    ["other sizes", FIT[preprocessing.fit]],
    ["other colours", COLOUR[preprocessing.colour]],
    ["pixel transform", TRANSFORM[(architecture.pixels ?? architecture).pixel_transform]],
    ["created", moment(created)],
    ["size", bytes(detail.size_bytes)],
  ]);
}

const featuresOf = (architecture) => (architecture.family === "features" ? architecture : architecture.features);

function describe(architecture) {
  if (architecture.family === "hybrid") return `${describe(architecture.pixels)}; ${describe(architecture.features)}`;
  if (architecture.family === "features") return `${architecture.linear} local affine maps of features`;
  const { family, linear, levels, steps, hidden, blocks, layers, kernel } = architecture;
  if (family === "glow") return `Glow, ${count(levels, "level")} of ${count(steps, "step")}, width ${hidden}, ${linear} 1×1 convolutions`;
  if (family === "convolutional") return `${blocks * layers} ${linear} ${kernel}×${kernel} convolutions in ${count(blocks, "block")}`;
  if (family === "fully-connected") return `${count(layers, "dense layer")}, ${linear}`;
  const all = levels.flatMap((level) => level.steps).flatMap(({ repeat = 1, steps = [null] }) => Array(repeat * steps.length).fill());
  return `${count(levels.length, "level")}, ${count(all.length, "layer")}`;
}

function quality({ evaluation }) {
  const error = reconstructionError(evaluation);
  if (evaluation.validation_bits_per_dim === null) return featureQuality(evaluation, error);
  const { validation_bits_per_dim: validation, test_bits_per_dim: test, test_nats: nats, test_images: images } = evaluation;
  return html`
    <dl class="figures">
      <div><dt>test bits/dim</dt><dd>${fixed(test, 4)}</dd></div>
      <div><dt>validation bits/dim</dt><dd>${fixed(validation, 4)}</dd></div>
    </dl>
    ${facts([
      ["test images", images ? whole(images) : "none in this dataset"],
      ["test nats per image", nats === null ? null : html`${fixed(nats, 1)} <span class="faint">(negative log-likelihood)</span>`],
      ["reconstruction error", error],
    ])}
    <p class="small faint">Lower bits/dim mean a higher likelihood; they compare across image sizes. See the evaluations for the quality of anomaly detection.</p>`;
}

function featureQuality({ validation_nats: validation, test_nats: test, test_images: images }, error) {
  const mean = (nats) => (nats === null ? null : `${fixed(-nats, 1)} nats`);
  return html`${facts([
      ["mean log-likelihood, validation", mean(validation)],
      ["mean log-likelihood, test", mean(test)],
      ["test images", images ? whole(images) : "none in this dataset"],
      ["reconstruction error", error],
    ])}
    <p class="small faint">Log-likelihoods of features compare only under one model. See the evaluations for the quality of anomaly detection.</p>`;
}

function reconstructionError({ reconstruction_error: error }) {
  return error === null ? "no learned inverse" : html`${brief(error)} <span class="faint">maximum ‖I − R W‖ over the layers</span>`;
}

function training({ training: record }) {
  const parts = record.split && [["train", record.split.train], ["reference", record.split.statistics], ["calibration", record.split.calibration]];
  return facts([
    ["preset", record.preset],
    ["weights", record.imported && `imported from ${record.imported}`],
    [record.imported ? "calibrated and tested on" : "dataset", record.dataset],
    ["images", record.imported ? null : whole(record.train_images)],
    ["split", parts && html`${parts.map(([part, n]) => `${whole(n)} ${part}`).join(", ")} <span class="faint">(${record.split.rule})</span>`],
    ["files", record.provenance && Object.entries(record.provenance.formats).map(([format, n]) => `${whole(n)} ${format}`).join(", ")],
    ["steps", record.imported ? "not recorded" : record.steps ? html`${whole(record.steps)} <span class="faint">weights from step ${whole(record.best_step)}, best on validation</span>` : "none: fitted in closed form"],
    ["time", record.imported ? null : html`${duration(record.seconds)} <span class="faint">precision ${record.precision}</span>`],
    ["job", record.job && html`<a href="#/train/${record.job}">${record.job}</a>`],
    ["commit", record.started_from_commit && html`<code title=${record.started_from_commit}>${record.started_from_commit.slice(0, DIGEST_LENGTH)}</code>`],
    ["software", Object.entries(record.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ]);
}

function serving({ serving: engine, state }, { log_dets: logDets }) {
  if (!engine) {
    return state === "loading" ? waiting("Loading the model ...")
      : html`<p class="faint">${state === "failed" ? "The model could not be loaded." : "The model is not loaded. Score an image to load it."}</p>${facts(cachedLogDets(logDets.total, logDets.weights_sha256, logDets.layers))}`;
  }
  return facts([
    ["engine", engine.engine],
    ["precision", engine.precision === "float32" ? "float32" : html`${engine.precision} <span class="faint">for middle convolutions of coupling networks, else float32</span>`],
    ["tile", html`${count(engine.tile, "image")} <span class="faint">per pass, measured on this machine</span>`],
    ["smallest alpha", smallestRate(engine.smallest_p)],
    ["default false-alarm rate", `${brief(100 * engine.default_alpha, 3)} %`],
    ...cachedLogDets(engine.log_det_total, engine.log_det_digest, logDets.layers),
  ]);
}

function cachedLogDets(total, digest, layers) {
  return [
    ["cached log-dets", html`${fixed(total, 3)} nats <span class="faint">over ${count(Object.keys(layers).length, "layer")}, float64</span>`],
    ["weights digest", html`<code title=${digest}>${digest.slice(0, DIGEST_LENGTH)}</code>`],
  ];
}
