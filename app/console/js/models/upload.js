// A model that comes as a file, from another service.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { get } from "../service.js";

const NAME = "[a-z0-9][a-z0-9._\\-]{0,63}";

const state = { busy: false, error: null, made: null };

/** The form; `added` is called when a model was registered. */
export function uploader(redraw, added) {
  const send = async (event) => {
    event.preventDefault();
    const { target } = event;
    const given = new FormData(target);
    if (state.busy) return;
    Object.assign(state, { busy: true, error: null, made: null });
    redraw();
    try {
      const query = { name: given.get("name"), promote: given.has("promote") };
      state.made = await get("/v1/models", { method: "POST", query, body: given.get("file"), headers: { "Content-Type": "application/x-tar" } });
      target.reset();
      added();
    } catch (error) {
      state.error = error;
    }
    state.busy = false;
    redraw();
  };
  return html`<details class="card"><summary>Upload a model</summary>
    <form class="stack" @submit=${send}>
      <p class="faint">A tar as <em>Download</em> on a model's page gives it. Its weights are checked and an image is scored anew before it is registered.</p>
      <div class="columns">
        <div class="field"><label for="upload-file">File</label><input id="upload-file" name="file" type="file" accept=".tar,application/x-tar" required></div>
        <div class="field"><label for="upload-name">Name</label><input id="upload-name" name="name" required pattern=${NAME} autocomplete="off">
          <small>Small letters, digits, dot, dash and underscore. A name that is there gets another version.</small></div>
        <label class="check"><input type="checkbox" name="promote"> make it live</label>
      </div>
      <div class="row" role="status"><button class="primary">${state.busy ? "Sending ..." : "Upload"}</button>
        ${state.made ? html`<span><a href="#/models/${state.made.name}:${state.made.version}">${state.made.name}:${state.made.version}</a> is registered.</span>` : nothing}</div>
      ${state.error ? html`<p class="notice bad" role="alert">${state.error.message}</p>` : nothing}
    </form></details>`;
}
