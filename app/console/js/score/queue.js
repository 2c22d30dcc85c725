// Scores images in the order they came: a few at once so that the first answers come early, never all in memory.
import { call, get, isAbort, Problem } from "../service.js";

const FIRST = 4;
const BATCH = 32;
const IN_FLIGHT = 2;

/** One image and what is known of it. */
export class Item {
  constructor(id, file, name) {
    [this.id, this.file, this.name] = [id, file, name];
    this.url = URL.createObjectURL(file);
    this.reset();
  }

  /** Forgets its score, which was another model's. */
  reset() {
    this.state = "waiting"; // working, ok, error
    this.result = this.error = this.explained = null;
  }
}

export class Queue {
  /** `changed` is called after every answer, `failed` with what ended all of it. */
  constructor({ changed, failed }) {
    [this.changed, this.failed] = [changed, failed];
    this.items = [];
    this.model = null;
    this.stopped = new AbortController();
    this.running = 0;
    this.made = 0;
    this.by = null; // model, version and calibration of the newest answer
  }

  add(files) {
    const found = files.map(({ file, name }) => new Item((this.made += 1), file, name));
    this.items.push(...found);
    this.go();
    return found;
  }

  /** Scores everything again, by another model. */
  use(model) {
    this.stop();
    this.model = model;
    this.by = null;
    for (const item of this.items) item.reset();
    this.go();
  }

  clear() {
    this.stop();
    for (const item of this.items) URL.revokeObjectURL(item.url);
    this.items = [];
    this.changed();
  }

  /** Gives up what has no score yet. */
  stop() {
    this.stopped.abort();
    this.stopped = new AbortController();
    this.running = 0;
    for (const item of this.items) if (item.state === "working") item.state = "waiting";
  }

  drop() {
    this.stop();
    const [kept, gone] = [this.items.filter((one) => one.state !== "waiting"), this.items.filter((one) => one.state === "waiting")];
    for (const item of gone) URL.revokeObjectURL(item.url);
    this.items = kept;
    this.changed();
  }

  get done() {
    return this.items.filter((one) => one.state === "ok" || one.state === "error").length;
  }

  get busy() {
    return this.running > 0;
  }

  go() {
    while (this.model && this.running < IN_FLIGHT && this.items.some((one) => one.state === "waiting")) {
      const signal = this.stopped.signal;
      this.running += 1;
      this.work(signal).then(() => {
        if (!signal.aborted) { this.running -= 1; this.changed(); }
      });
    }
    this.changed();
  }

  async work(signal) {
    for (;;) {
      const size = this.done === 0 ? FIRST : BATCH;
      const batch = [];
      for (const item of this.items) {
        if (batch.length === size) break;
        if (item.state === "waiting") batch.push(item);
      }
      if (!batch.length || signal.aborted) return;
      for (const item of batch) item.state = "working";
      try {
        const answer = await ask(this.model, batch, signal);
        if (signal.aborted) return;
        const { model, version, calibration } = answer;
        if (model) this.by = { model, version, calibration };
        for (const result of answer.results) settle(batch[result.index], result, model ? this.by : null);
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        for (const item of batch) [item.state, item.error] = ["error", { title: error.title, detail: error.message }];
        this.failed(error);
        if (!(error instanceof Problem)) throw error;
      }
      this.changed();
    }
  }
}

function settle(item, result, by) {
  [item.state, item.by] = [result.status, by];
  item.result = result.status === "ok" ? result : null;
  item.error = result.error ?? null;
}

function form(items) {
  const found = new FormData();
  for (const item of items) found.append("images", item.file, item.name);
  return found;
}

async function ask(model, items, signal) {
  try {
    return await (await call(`/v1/models/${model}/score`, { method: "POST", body: form(items), signal, patient: true })).json();
  } catch (error) {
    // Where no image of a request can be scored, the problem says so of each.
    if (error instanceof Problem && error.results) return { results: error.results };
    throw error;
  }
}

/** The same image once more, with its heat map. */
export async function explain(model, item) {
  const query = { explain: true };
  const answer = await get(`/v1/models/${model}/score`, { method: "POST", body: form([item]), query, patient: true });
  return answer.results[0];
}
