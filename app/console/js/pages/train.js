// Train: images in, a training started, and each job followed to its model.
import { html, render } from "../../vendor/lit-html/lit-html.js";
import { Datasets } from "../train/datasets.js";
import { Form } from "../train/form.js";
import { Job } from "../train/job.js";
import { Jobs } from "../train/jobs.js";

export const title = "Train";

let redraw = () => undefined;
const changed = () => redraw();
const form = new Form({ changed, queued: (job) => { location.hash = `#/train/${job.id}`; } });
const datasets = new Datasets({ changed, chose: (name) => form.use(name) });
const jobs = new Jobs({ changed });

/** The overview, or with the id of a job that job alone. */
export function mount(root, argument) {
  const stopped = new AbortController();
  const job = argument ? new Job(argument, { changed }) : null;
  let asked = false;
  redraw = () => {
    if (asked) return;
    asked = true;
    // Reports of a training come faster than anybody reads.
    requestAnimationFrame(() => { asked = false; if (root.isConnected) render(job ? job.view() : overview(), root); });
  };
  render(job ? job.view() : overview(), root);
  const deaf = job ? () => undefined : datasets.upload.listen();
  if (job) {
    job.watch(stopped.signal);
  } else {
    datasets.load();
    form.load();
    jobs.watch(stopped.signal);
  }
  return () => {
    redraw = () => undefined;
    stopped.abort();
    deaf();
  };
}

function overview() {
  return html`<div class="head"><div><h1>Train</h1>
      <p>From a folder of good images to a calibrated model that is served. It learns what is usual; nothing else is needed.</p></div></div>
    <div class="columns train">${datasets.view()}${form.view()}</div>
    ${jobs.view()}`;
}
