// What a version is, what it was made from, how good it is and how it is computed.
import { html } from "../../vendor/lit-html/lit-html.js";
import { brief, bytes, count, duration, fixed, moment, shape, whole } from "../format.js";
import { facts, waiting } from "../parts.js";

const FIT = { exact: "refused", crop: "resized, then the middle is cut out", stretch: "both sides resized", pad: "resized, black around it" };
const COLOUR = { exact: "refused", grey: "made grey", rgb: "made colour" };
const TRANSFORM = {
  affine: "affine: pixels scaled to an interval",
  logit: "logit of the pixels",
  marginal: "marginal: by the distribution of grey levels in training",
};
const COMMIT = 12; // digits that tell one commit or digest from another

export class Overview {
  constructor(subject) {
    this.subject = subject;
  }

  view() {
    const { detail } = this.subject;
    const { manifest } = detail;
    return html`<div class="columns two">
      <section class="card"><h2>What it is</h2>${what(detail, manifest)}</section>
      <section class="card"><h2>How good it is</h2>${quality(manifest)}</section>
      <section class="card"><h2>What it was made from</h2>${training(manifest)}</section>
      <section class="card"><h2>How it is computed</h2>${computing(detail, manifest)}</section>
    </div>`;
  }
}

function what(detail, { architecture, preprocessing, created }) {
  return facts([
    ["architecture", built(architecture)],
    ["images", `${shape([preprocessing.channels, preprocessing.height, preprocessing.width])}, ${whole(preprocessing.channels * preprocessing.height * preprocessing.width)} dimensions`],
    ["other sizes", FIT[preprocessing.fit]],
    ["other colours", COLOUR[preprocessing.colour]],
    ["pixel transform", TRANSFORM[architecture.pixel_transform]],
    ["created", moment(created)],
    ["size", bytes(detail.size_bytes)],
  ]);
}

function built(architecture) {
  const { family, linear, levels, steps, hidden, blocks, layers, kernel } = architecture;
  if (family === "glow") return `Glow, ${count(levels, "level")} of ${count(steps, "step")}, width ${hidden}, ${linear} 1×1 convolutions`;
  if (family === "convolutional") return `${blocks * layers} ${linear} ${kernel}×${kernel} convolutions in ${count(blocks, "block")}`;
  return `${count(layers, "dense layer")}, ${linear}`;
}

function quality({ evaluation }) {
  const { validation_bits_per_dim: validation, test_bits_per_dim: test, test_nats: nats, test_images: images, reconstruction_error: error } = evaluation;
  return html`
    <dl class="figures">
      <div><dt>test bits/dim</dt><dd>${fixed(test, 4)}</dd></div>
      <div><dt>validation bits/dim</dt><dd>${fixed(validation, 4)}</dd></div>
    </dl>
    ${facts([
      ["test images", images ? whole(images) : "none in this dataset"],
      ["test, nats an image", nats === null ? null : html`${fixed(nats, 1)} <span class="faint">(negative log-likelihood)</span>`],
      ["reconstruction error", error === null ? "no learned inverse" : html`${brief(error)} <span class="faint">largest ‖I − R W‖ over the layers</span>`],
    ])}
    <p class="small faint">Bits/dim compare over sizes; lower is likelier. A low one does not make a good detector: evaluations say how good it is at that.</p>`;
}

function training({ training: made }) {
  const parts = made.split && [["train", made.split.train], ["statistics", made.split.statistics], ["calibration", made.split.calibration]];
  return facts([
    ["preset", made.preset],
    ["dataset", made.dataset],
    ["images", whole(made.train_images)],
    ["shared out", parts && html`${parts.map(([part, n]) => `${whole(n)} ${part}`).join(", ")} <span class="faint">(${made.split.rule})</span>`],
    ["files", made.provenance && Object.entries(made.provenance.formats).map(([format, n]) => `${whole(n)} ${format}`).join(", ")],
    ["steps", html`${whole(made.steps)} <span class="faint">weights of step ${whole(made.best_step)}, best on validation</span>`],
    ["time", html`${duration(made.seconds)} <span class="faint">arithmetic ${made.precision}</span>`],
    ["job", made.job && html`<a href="#/train/${made.job}">${made.job}</a>`],
    ["commit", made.started_from_commit && html`<code title=${made.started_from_commit}>${made.started_from_commit.slice(0, COMMIT)}</code>`],
    ["with", Object.entries(made.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ]);
}

function computing({ serving, state }, { log_dets: logDets }) {
  if (!serving) {
    return state === "loading" ? waiting("It is being loaded ...")
      : html`<p class="faint">${state === "failed" ? "It could not be loaded." : "It is not loaded: the first score by it loads it. Then its engine stands here."}</p>${facts(sums(logDets.total, logDets.weights_sha256, logDets.layers))}`;
  }
  return facts([
    ["engine", serving.engine],
    ["precision", serving.precision === "float32" ? "float32" : html`${serving.precision} <span class="faint">middle convolutions of coupling networks; all else float32</span>`],
    ["tile", html`${count(serving.tile, "image")} <span class="faint">computed at once, as measured on this machine</span>`],
    ["smallest p-value", brief(serving.smallest_p, 3)],
    ["default false-alarm rate", `${brief(100 * serving.default_alpha, 3)} %`],
    ...sums(serving.log_det_total, serving.log_det_digest, logDets.layers),
  ]);
}

function sums(total, digest, layers) {
  return [
    ["cached log-dets", html`${fixed(total, 3)} nats <span class="faint">over ${count(Object.keys(layers).length, "layer")}, float64</span>`],
    ["of weights", html`<code title=${digest}>${digest.slice(0, COMMIT)}</code>`],
  ];
}
