// Scores images in order. The first request is small so that results appear early; later requests are batches.
import { isNoImage, unreadable } from "./intake.js";
import { get, isAbort, Problem } from "../service.js";

const FIRST_BATCH = 4;
const BATCH = 32;
const MAX_IN_FLIGHT = 2;
const TOO_LARGE = 413; // pixels, bytes or images of a request
const REFUSED = new Set([401, 403, 404, 409]); // the key or the model: every other request would be refused as well

/** An image and its result. */
export class Item {
  constructor(id, file, name) {
    [this.id, this.file, this.name] = [id, file, name];
    this.address = null;
    this.reset();
  }

  /** The address of the picture; made when it is shown first, as a page cannot hold those of a large folder. */
  get url() {
    this.address ??= URL.createObjectURL(this.file);
    return this.address;
  }

  /** Frees the address of the picture. */
  release() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
  }

  /** Discards the result of another model. */
  reset() {
    this.state = "waiting"; // then scoring, then ok or error
    this.result = this.error = this.by = this.explained = null;
    this.explaining = false;
    this.asked = undefined; // the false-alarm rate of the heat map
  }
}

export class Queue {
  /** `changed` is called after every answer, `failed` with the error of a failed request. */
  constructor({ changed, failed }) {
    [this.changed, this.failed] = [changed, failed];
    this.items = [];
    this.model = null;
    this.stopped = new AbortController();
    this.running = 0;
    this.lastId = 0;
    this.skipped = 0; // files of folders whose names are no images'
    this.by = null; // model, version and calibration of the newest answer
  }

  /** Scores files. They have no source, so that they do not count for drift. */
  add(files) {
    const inFolder = ({ name }) => name.includes("/");
    const images = files.filter((entry) => !(inFolder(entry) && isNoImage(entry.name)));
    this.skipped += files.length - images.length;
    for (const { file, name } of images) this.items.push(new Item((this.lastId += 1), file, name)); // may be 200,000
    this.go();
  }

  /** Scores all images again with another model. */
  use(model) {
    this.stop();
    this.model = model;
    this.by = null;
    for (const item of this.items) item.reset();
    this.go();
  }

  clear() {
    this.stop();
    for (const item of this.items) item.release();
    this.items = [];
    this.skipped = 0;
    this.changed();
  }

  /** Cancels all requests. Their images go back to waiting. */
  stop() {
    this.stopped.abort();
    this.stopped = new AbortController();
    this.running = 0;
    for (const item of this.items) if (item.state === "scoring") item.state = "waiting";
  }

  /** Cancels all requests and removes the images without a result. */
  drop() {
    this.stop();
    const [kept, removed] = [this.items.filter(({ state }) => state !== "waiting"), this.items.filter(({ state }) => state === "waiting")];
    for (const item of removed) item.release();
    this.items = kept;
    this.changed();
  }

  /** The scored images whose version or calibration is not that of the newest answer. */
  get outdated() {
    return this.items.filter(({ state, by }) => state === "ok" && by && !sameCalibration(by, this.by));
  }

  get done() {
    return this.items.filter(({ state }) => state === "ok" || state === "error").length;
  }

  get busy() {
    return this.running > 0;
  }

  go() {
    while (this.model && this.running < MAX_IN_FLIGHT && this.items.some(({ state }) => state === "waiting")) {
      const signal = this.stopped.signal;
      this.running += 1;
      this.work(signal).finally(() => {
        if (!signal.aborted) { this.running -= 1; this.changed(); }
      });
    }
    this.changed();
  }

  async work(signal) {
    for (;;) {
      const size = this.done === 0 ? FIRST_BATCH : BATCH;
      const batch = [];
      for (const item of this.items) {
        if (batch.length === size) break;
        if (item.state === "waiting") batch.push(item);
      }
      if (!batch.length || signal.aborted) return;
      for (const item of batch) item.state = "scoring";
      await this.scoreBatch(batch, signal);
    }
  }

  /** Scores images by one request; in halves if it is too large for the service or has a file that cannot be read. */
  async scoreBatch(batch, signal) {
    try {
      const answer = await score(this.model, batch, signal);
      if (signal.aborted) return;
      const { model, version, calibration } = answer;
      if (model) this.by = { model, version, calibration };
      for (const result of answer.results) settle(batch[result.index], result, model ? this.by : null);
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      if ((error.status === TOO_LARGE || error.type === "unreadable-file") && batch.length > 1) {
        const middle = Math.floor(batch.length / 2);
        await this.scoreBatch(batch.slice(0, middle), signal);
        if (!signal.aborted) await this.scoreBatch(batch.slice(middle), signal);
        return;
      }
      const failed = REFUSED.has(error.status) ? [...batch, ...this.items.filter(({ state }) => state === "waiting")] : batch;
      for (const item of failed) [item.state, item.error] = ["error", { title: error.title, detail: error.message }];
      this.failed(error);
      if (!(error instanceof Problem)) throw error;
    }
    this.changed();
  }
}

/** Whether two results are of the same version and calibration, so that they can be compared. */
export function sameCalibration(one, other) {
  return one?.version === other?.version && one?.calibration === other?.calibration;
}

function settle(item, result, by) {
  [item.state, item.by] = [result.status, by];
  item.result = result.status === "ok" ? result : null;
  item.error = result.error ?? null;
}

function form(items) {
  const data = new FormData();
  for (const item of items) data.append("images", item.file, item.name);
  return data;
}

/** Returns the error to show of a request with files: a file that cannot be read looks like a service without an answer. */
async function cause(error, items) {
  return (error.type === "unreachable" && (await unreadable(items))) || error;
}

async function score(model, items, signal) {
  try {
    return await get(`/v1/models/${model}/score`, { method: "POST", body: form(items), signal, patient: true });
  } catch (error) {
    // If no image of a request can be scored, the error response lists the reason for each image.
    if (error instanceof Problem && error.results) return { results: error.results };
    throw await cause(error, items);
  }
}

/** Scores an image again by the version that scored it, and returns the result with a heat map. Its colours and regions are
 *  those at the false-alarm rate `alpha`; null for the default. */
export async function explain(item, alpha) {
  try {
    const answer = await get(`/v1/models/${item.by.model}:${item.by.version}/score`, { method: "POST", body: form([item]), query: { explain: true, alpha }, patient: true });
    return answer.results[0];
  } catch (error) {
    throw await cause(error, [item]);
  }
}
