// The Train page: datasets, the training form and the list of jobs, or one job.
import { html, render } from "../../vendor/lit-html/lit-html.js";
import { Datasets } from "../train/datasets.js";
import { Form } from "../train/form.js";
import { Job } from "../train/job.js";
import { Jobs } from "../train/jobs.js";

export const title = "Train";

let redraw = () => undefined;
const changed = () => redraw();
const form = new Form({ changed, queued: (job) => { location.hash = `#/train/${job.id}`; } });
const datasets = new Datasets({ changed, onChoose: (name) => form.use(name) });
const jobs = new Jobs({ changed });

/** `argument` is empty for the overview, or the id of a job. */
export function mount(root, argument) {
  const stopped = new AbortController();
  const job = argument ? new Job(argument, { changed }) : null;
  let scheduled = false;
  redraw = () => {
    if (scheduled) return;
    scheduled = true;
    // Training events can arrive more often than the screen refreshes.
    requestAnimationFrame(() => { scheduled = false; if (root.isConnected) render(job ? job.view() : overview(), root); });
  };
  render(job ? job.view() : overview(), root);
  const stopListening = job ? () => undefined : datasets.upload.listen();
  if (job) {
    job.watch(stopped.signal);
  } else {
    datasets.load();
    form.load();
    jobs.watch(stopped.signal);
    form.recommendation.watch(stopped.signal);
  }
  return () => {
    redraw = () => undefined;
    stopped.abort();
    stopListening();
  };
}

function overview() {
  return html`<div class="head"><div><h1>Train</h1>
      <p>Train a calibrated anomaly detector on a folder of normal images. No anomalous images and no labels are needed.</p></div></div>
    <div class="columns train">${datasets.view()}${form.view()}</div>
    ${jobs.view()}`;
}
