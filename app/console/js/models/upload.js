// A model that comes as a file, from another service.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes } from "../format.js";
import { isAbort, upload } from "../service.js";

const NAME = "[a-z0-9][a-z0-9._\\-]{0,63}";

const state = { sending: null, error: null, made: null };

/** The form; `added` is called when a model was registered. */
export function uploader(redraw, added) {
  const send = async (event) => {
    event.preventDefault();
    const { target } = event;
    const given = new FormData(target);
    if (state.sending) return;
    const file = given.get("file");
    const sending = { sent: 0, total: file.size, stopped: new AbortController() };
    Object.assign(state, { sending, error: null, made: null });
    redraw();
    try {
      state.made = await upload("/v1/models", file, {
        query: { name: given.get("name"), promote: given.has("promote") },
        type: "application/x-tar",
        progress: (sent, total) => { Object.assign(sending, { sent, total }); redraw(); },
        signal: sending.stopped.signal,
      });
      target.reset();
      added();
    } catch (error) {
      if (!isAbort(error)) state.error = error;
    }
    state.sending = null;
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
      ${state.sending ? progress(state.sending) : html`<div><button class="primary">Upload</button></div>`}
      <p role="status">${told(state)}</p>
      ${state.error ? html`<p class="notice bad" role="alert">${state.error.message}</p>` : nothing}
    </form></details>`;
}

function progress({ sent, total, stopped }) {
  return html`<div class="row between"><span class="small faint">${bytes(sent)} of ${bytes(total)}</span>
      <button type="button" class="danger" @click=${() => stopped.abort()}>Cancel</button></div>
    ${sent < total ? html`<progress aria-label="Upload" max=${total} .value=${sent}></progress>` : html`<progress aria-label="Check"></progress>`}`;
}

function told({ sending, made }) {
  if (sending) return sending.sent < sending.total ? "Uploading ..." : "Checking its weights ...";
  return made ? html`<a href="#/models/${made.name}:${made.version}">${made.name}:${made.version}</a> is registered.` : nothing;
}
