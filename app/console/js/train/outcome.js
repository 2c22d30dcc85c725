// How a job ended: the model and where to go with it, a file, a report, or what went wrong and what helps.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { brief, duration, fixed, whole } from "../format.js";
import { facts } from "../parts.js";
import { call, get, hasKey, save } from "../service.js";
import { complain, toast } from "../toast.js";

const HELPS = {
  "training-diverged": "Start another one with a smaller learning rate or a longer warm-up; trying this one again repeats it.",
  "out-of-memory": "Start another one with a smaller batch size or preset.",
  "attempt-crashed": "The log says more. Trying again goes on from the newest checkpoint.",
  "storage-full": "Make room on the service's disk, then try again: it goes on from the newest checkpoint.",
  "dataset-not-found": "The dataset is gone: upload it again, then try again.",
};

/** The aliases of the job's model, by which one sees whether its version is live. */
export async function aliasesOf(job, signal) {
  const { models } = await get("/v1/models", { signal });
  return models.find((one) => one.name === job.result.model)?.aliases ?? null;
}

/** What a job that is over came to. */
export function outcome(job, aliases, changed) {
  if (job.status === "failed") return failure(job);
  if (job.status !== "succeeded") return nothing;
  return (RESULTS[job.type] ?? (() => nothing))(job, aliases, changed);
}

function failure({ error }) {
  return html`<div class="notice bad" role="alert"><strong>${error?.title ?? "Failed"}.</strong> ${error?.detail}
    <p>${HELPS[error?.type] ?? "The log says more."}</p></div>`;
}

const RESULTS = { train: trained, score: scored, calibrate: calibrated, evaluate: evaluated };

function trained({ result, metrics }, aliases, changed) {
  const found = metrics.evaluation ?? {};
  const alive = aliases?.live === result.version;
  return html`<section class="card good-edge" aria-labelledby="outcome-title">
    <h2 id="outcome-title">The model <a href="#/models/${result.ref}">${result.ref}</a> is ready</h2>
    ${facts([
      ["test", found.test_bits_per_dim == null ? null : html`<strong>${fixed(found.test_bits_per_dim, 4)} bits/dim</strong>${found.test_images ? ` on ${whole(found.test_images)} images` : ""}`],
      ["test log-likelihood", found.test_nats == null ? null : `${fixed(-found.test_nats, 1)} nats an image (density)`],
      ["validation", found.validation_bits_per_dim == null ? null : `${fixed(found.validation_bits_per_dim, 4)} bits/dim`],
      ["reconstruction error", found.reconstruction_error == null ? null : `${brief(found.reconstruction_error)}, the largest of a learned inverse`],
    ])}
    ${aliases && !alive ? html`<div class="notice row between"><span>It is not live: <code>${result.model}</code> means version ${aliases.live}.</span>
      <button @click=${() => makeLive(result, aliases, changed)}>Make it live</button></div>` : nothing}
    <div class="row">
      <a class="button primary-link" href="#/score" @click=${() => sessionStorage.setItem("snf-model", alive ? result.model : result.ref)}>Score with it</a>
      <a class="button" href="#/samples/${alive ? result.model : result.ref}">Draw samples</a>
    </div>
  </section>`;
}

async function makeLive(result, aliases, changed) {
  try {
    const found = await get(`/v1/models/${result.model}/aliases/live`, { method: "PUT", json: { version: result.version } });
    Object.assign(aliases, found.aliases);
    toast(`${result.model} is now version ${result.version}`);
  } catch (error) {
    complain(error);
  }
  changed();
}

function scored(job) {
  const { images, anomalies, errors } = job.result;
  return html`<section class="card good-edge" aria-labelledby="outcome-title"><h2 id="outcome-title">Every image is scored</h2>
    ${facts([["images", whole(images)], ["anomalies", whole(anomalies)], ["not scored", errors ? whole(errors) : null], ["model", html`<a href="#/models/${job.model}">${job.model}</a>`]])}
    <div><button class="primary" @click=${() => download(job, `${job.id}.parquet`)}>Download the table (Parquet)</button></div></section>`;
}

function calibrated({ result }) {
  return html`<section class="card good-edge" aria-labelledby="outcome-title"><h2 id="outcome-title">Calibration ${result.calibration} of <a href="#/models/${result.ref}">${result.ref}</a> is made</h2>
    ${facts([["smallest p-value", brief(result.smallest_p)]])}
    <div><a class="button" href="#/models/${result.ref}">To the model</a></div></section>`;
}

function evaluated(job) {
  const { auroc, auroc_over_baseline: over, false_alarms: alarms } = job.result;
  const page = `/v1/jobs/${job.id}/result?format=html`;
  return html`<section class="card good-edge" aria-labelledby="outcome-title"><h2 id="outcome-title">The report is written</h2>
    ${facts([["AUROC", plain(auroc)], ["over the best baseline", plain(over)], ["false alarms", plain(alarms)], ["took", job.finished_at ? duration((new Date(job.finished_at) - new Date(job.started_at)) / 1000) : null]])}
    <div>${hasKey() ? html`<button class="primary" @click=${() => download(job, `${job.id}.html`, "html")}>Download the report</button>`
      : html`<a class="button primary-link" href=${page} target="_blank" rel="noopener">Open the report</a>`}</div></section>`;
}

// A number, or numbers by the name of what was looked at.
function plain(value) {
  if (value == null) return null;
  if (typeof value !== "object") return brief(value, 4);
  return Object.entries(value).map(([name, one]) => `${name} ${typeof one === "number" ? brief(one, 4) : JSON.stringify(one)}`).join(", ");
}

async function download(job, name, format = null) {
  try {
    save(await (await call(`/v1/jobs/${job.id}/result`, { query: { format } })).blob(), name);
  } catch (error) {
    complain(error);
  }
}
