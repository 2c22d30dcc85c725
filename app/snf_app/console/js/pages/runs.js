// The Runs page: trainings of jobs and of the command line, side by side.
import { html, render } from "../../vendor/lit-html/lit-html.js";
import { Comparison } from "../runs/comparison.js";
import { Runs } from "../runs/list.js";

export const title = "Runs";

/** `argument` is empty, or the ids of the chosen runs with commas between them. */
export function mount(root, argument) {
  const stopped = new AbortController();
  const draw = () => { if (root.isConnected) render(view(), root); };
  const comparison = new Comparison(argument ? argument.split(",") : [], { changed: draw, signal: stopped.signal });
  const runs = new Runs({ changed: draw, comparison });
  const view = () => html`<div class="head"><div><h1>Runs</h1>
      <p>Compare trainings: their curves, parameters and results. Here are those of jobs and those of <code>snf train</code> on the machine of the service.</p></div></div>
    ${runs.view()}${comparison.view()}`;
  render(view(), root);
  runs.watch(stopped.signal);
  return () => stopped.abort();
}
