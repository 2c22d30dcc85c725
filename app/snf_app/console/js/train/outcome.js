// The result of a finished job: a model, a table, a calibration, a report, or an error with advice.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { smallestRate } from "../attainable.js";
import { brief, duration, fixed, whole } from "../format.js";
import { facts, notice, unfitText } from "../parts.js";
import { call, get, getAll, hasKey, save } from "../service.js";
import { complain, toast } from "../toast.js";

const ADVICE = {
  "training-diverged": "Start a new training with a smaller learning rate or a longer warm-up. A retry would diverge again.",
  "memory-limit": "Start a new training with smaller images, a smaller batch size or preset.",
  "out-of-memory": "Start a new training with a smaller batch size or preset.",
  "attempt-crashed": "See the log for the cause. A retry continues from the newest checkpoint.",
  "storage-full": "Free disk space on the service, then try again. The retry continues from the newest checkpoint.",
  "dataset-not-found": "The dataset was deleted. Upload it again, then try again.",
};

/** Returns the aliases of the trained model; null if the model no longer exists. */
export async function aliasesOf(job, signal) {
  const models = await getAll("/v1/models", "models", { signal });
  return models.find(({ name }) => name === job.result.model)?.aliases ?? null;
}

/** Renders the result of a finished job. */
export function outcome(job, aliases, changed) {
  if (job.status === "failed") return failure(job);
  if (job.status !== "succeeded" && job.status !== "partial") return nothing;
  return (RESULTS[job.type] ?? (() => nothing))(job, aliases, changed);
}

function failure({ error }) {
  return html`<div class="notice bad" role="alert"><strong>${error?.title ?? "Failed"}.</strong> ${error?.detail}
    <p>${ADVICE[error?.type] ?? "See the log for the cause."}</p></div>`;
}

const RESULTS = { train: trained, score: scored, calibrate: calibrated, evaluate: evaluated, limit: limited, recommend: recommended };

function trained({ result, metrics }, aliases, changed) {
  const evaluation = metrics.evaluation ?? {};
  // A density of features has no bits per dimension and no samples.
  const ofFeatures = evaluation.validation_nats != null && evaluation.validation_bits_per_dim == null;
  const isLive = aliases?.live === result.version;
  const unfit = unfitText(result.unfit);
  return html`<section class="card ${unfit ? "bad-edge" : "good-edge"}" aria-labelledby="outcome-title">
    <h2 id="outcome-title">The model <a href="#/models/${result.ref}">${result.ref}</a> is ${unfit ? "unfit" : "ready"}</h2>
    ${notice(unfit, "bad")}
    ${facts([
      ["test", evaluation.test_bits_per_dim == null ? null : html`<strong>${fixed(evaluation.test_bits_per_dim, 4)} bits/dim</strong>${evaluation.test_images ? ` on ${whole(evaluation.test_images)} images` : ""}`],
      ["test log-likelihood", evaluation.test_nats == null ? null : `${fixed(-evaluation.test_nats, 1)} nats per image (density of ${ofFeatures ? "features" : "pixels"})`],
      ["validation", evaluation.validation_bits_per_dim == null ? null : `${fixed(evaluation.validation_bits_per_dim, 4)} bits/dim`],
      ["validation log-likelihood", ofFeatures ? `${fixed(-evaluation.validation_nats, 1)} nats per image` : null],
      ["smallest alpha", result.smallest_p ? smallestRate(result.smallest_p) : null],
      ["reconstruction error", evaluation.reconstruction_error == null ? null : `${brief(evaluation.reconstruction_error)}, maximum over learned inverses`],
    ])}
    ${aliases && !isLive ? html`<div class="notice row between"><span>This version is not live: <code>${result.model}</code> ${aliases.live ? `uses version ${aliases.live}` : "has no live version"}.</span>
      <button @click=${() => makeLive(result, aliases, changed)}>Make it live</button></div>` : nothing}
    <div class="row">
      <a class="button primary-link" href="#/score" @click=${() => sessionStorage.setItem("snf-model", isLive ? result.model : result.ref)}>Score images</a>
      ${ofFeatures ? nothing : html`<a class="button" href="#/samples/${isLive ? result.model : result.ref}">Draw samples</a>`}
    </div>
  </section>`;
}

async function makeLive(result, aliases, changed) {
  try {
    const answer = await get(`/v1/models/${result.model}/aliases/live`, { method: "PUT", json: { version: result.version } });
    Object.assign(aliases, answer.aliases);
    toast(`${result.model} is now version ${result.version}`);
  } catch (error) {
    complain(error);
  }
  changed();
}

function scored(job) {
  const { images, anomalies, errors, output } = job.result;
  return html`<section class="card ${errors ? "" : "good-edge"}" aria-labelledby="outcome-title"><h2 id="outcome-title">${errors ? `${whole(images - errors)} of ${whole(images)} images are scored` : "All images are scored"}</h2>
    ${errors ? html`<p class="notice warn">${whole(errors)} could not be judged: the columns <code>error</code> and <code>error_detail</code> of the table name each with its reason.</p>` : nothing}
    ${facts([["images", whole(images)], ["anomalies", whole(anomalies)], ["not scored", errors ? whole(errors) : null], ["model", html`<a href="#/models/${job.model}">${job.model}</a>`],
      ["Parquet files", output ? html`<code class="break">${output}</code>` : null]])}
    ${output ? nothing : html`<div><button class="primary" @click=${() => download(job, `${job.id}.parquet`)}>Download the table (Parquet)</button></div>`}</section>`;
}

function calibrated({ result }) {
  return html`<section class="card good-edge" aria-labelledby="outcome-title"><h2 id="outcome-title">Calibration ${result.calibration} of <a href="#/models/${result.ref}">${result.ref}</a> is ready</h2>
    ${result.active === false ? html`<p class="notice warn">It is not in use: ${result.reason}.</p>` : nothing}
    ${facts([["smallest alpha", smallestRate(result.smallest_p)], ["in use", result.active ? `yes${result.reason ? `: ${result.reason}` : ""}` : null]])}
    <div><a class="button" href="#/models/${result.ref}/calibrations">${result.active === false ? "Compare it with the one in use" : "Open the calibrations"}</a></div></section>`;
}

function limited({ result }) {
  const { ref, limit, alpha, calibration, sizes, not_determinable: why } = result;
  return html`<section class="card ${why ? "" : "good-edge"}" aria-labelledby="outcome-title"><h2 id="outcome-title">Detection limit ${limit} of <a href="#/models/${ref}">${ref}</a> is measured</h2>
    ${notice(why && `It is not determinable: ${why}.`, "warn")}
    ${facts([["false-alarm rate", `${brief(100 * alpha)} %`], ["calibration", calibration], ...Object.entries(sizes).map(([defect, size]) => [defect, size == null ? "none found in 90 %" : `from ${size} pixels`])])}
    <div><a class="button" href="#/models/${ref}/limit">Open the table and the curves</a></div></section>`;
}

function recommended({ result }) {
  return html`<section class="card ${result.proposal ? "good-edge" : ""}" aria-labelledby="outcome-title">
    <h2 id="outcome-title">${result.proposal ? `Proposed family: ${result.proposal}` : "No family is proposed"}</h2>
    <ul>${result.reasons.map((reason) => html`<li>${reason}</li>`)}</ul>
    <div><a class="button" href="#/train">Open the table on the Train page</a></div></section>`;
}

function evaluated(job) {
  const { auroc, auroc_over_baseline: gain, false_alarms: alarms } = job.result;
  const page = `/v1/jobs/${job.id}/result?format=html`;
  return html`<section class="card good-edge" aria-labelledby="outcome-title"><h2 id="outcome-title">The report is ready</h2>
    ${facts([["AUROC", byName(auroc)], ["gain over baseline", byName(gain)], ["false alarms", alarms?.map(rate).join(", ")], ["time", job.finished_at ? duration((new Date(job.finished_at) - new Date(job.started_at)) / 1000) : null]])}
    <div>${hasKey() ? html`<button class="primary" @click=${() => download(job, `${job.id}.html`, "html")}>Download the report</button>`
      : html`<a class="button primary-link" href=${page} target="_blank" rel="noopener">Open the report</a>`}</div></section>`;
}

// Formats values by the name of the anomalous dataset.
const byName = (values) => Object.entries(values ?? {}).map(([name, value]) => `${name} ${value == null ? "–" : brief(value, 4)}`).join(", ");
const rate = ({ alpha, share, inside }) => `${brief(100 * share)} % at ${brief(100 * alpha)} %${inside === false ? " (outside the expected range)" : ""}`;

async function download(job, name, format = null) {
  try {
    save(await (await call(`/v1/jobs/${job.id}/result`, { query: { format } })).blob(), name);
  } catch (error) {
    complain(error);
  }
}
