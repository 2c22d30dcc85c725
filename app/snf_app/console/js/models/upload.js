// Upload of a model as a tar file.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { bytes } from "../format.js";
import { unfitText } from "../parts.js";
import { isAbort, upload } from "../service.js";

const NAME = "[a-z0-9][a-z0-9._\\-]{0,63}";

const state = { sending: null, error: null, uploaded: null };

/** Renders the upload form; `added` is called after a model is registered. */
export function uploader(redraw, added) {
  const send = async (event) => {
    event.preventDefault();
    const { target } = event;
    const fields = new FormData(target);
    if (state.sending) return;
    const file = fields.get("file");
    const sending = { sent: 0, total: file.size, stopped: new AbortController() };
    Object.assign(state, { sending, error: null, uploaded: null });
    redraw();
    try {
      state.uploaded = await upload("/v1/models", file, {
        query: { name: fields.get("name"), promote: fields.has("promote") },
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
      <p class="faint">Choose a tar file from the <em>Download</em> button of a model. The service verifies its weights and a score before it registers the model.</p>
      <div class="columns">
        <div class="field"><label for="upload-file">File</label><input id="upload-file" name="file" type="file" accept=".tar,application/x-tar" required></div>
        <div class="field"><label for="upload-name">Name</label><input id="upload-name" name="name" required pattern=${NAME} autocomplete="off">
          <small>Lowercase letters, digits, dots, dashes and underscores. An existing name gets a new version.</small></div>
        <label class="check"><input type="checkbox" name="promote"> make it live</label>
      </div>
      ${state.sending ? progress(state.sending) : html`<div><button class="primary">Upload</button></div>`}
      <p role="status">${statusText(state)}</p>
      ${state.error ? html`<p class="notice bad" role="alert">${state.error.message}</p>` : nothing}
    </form></details>`;
}

function progress({ sent, total, stopped }) {
  return html`<div class="row between"><span class="small faint">${bytes(sent)} of ${bytes(total)}</span>
      <button type="button" class="danger" @click=${() => stopped.abort()}>Cancel</button></div>
    ${sent < total ? html`<progress aria-label="Upload" max=${total} .value=${sent}></progress>` : html`<progress aria-label="Verification"></progress>`}`;
}

function statusText({ sending, uploaded }) {
  if (sending) return sending.sent < sending.total ? "Uploading ..." : "Verifying the weights ...";
  return uploaded ? html`<a href="#/models/${uploaded.name}:${uploaded.version}">${uploaded.name}:${uploaded.version}</a> is registered.${uploaded.unfit?.length ? html` <span class="badge bad">unfit</span> ${unfitText(uploaded.unfit)}` : nothing}` : nothing;
}
