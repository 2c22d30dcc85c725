// Server-sent events of a job. They are read with `fetch` because `EventSource` cannot send an API key.
import { createParser } from "../vendor/eventsource-parser/index.js";
import { call, pause, Problem } from "./service.js";

const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 15_000;
const SILENCE_MS = 45_000; // the service sends at least a comment every 15 s

/**
 * Follows the events of a job until its `end` event or until `signal` is aborted.
 *
 * `onEvent` gets `{kind, data}` of every event exactly once, also across reconnections. `onConnection` gets false when the
 * connection is lost and true when it is back. Throws client errors (4xx), which a new attempt cannot fix.
 */
export async function follow(job, { onEvent, onConnection, signal }) {
  let lastId = "";
  let failures = 0;
  while (!signal.aborted) {
    const silence = new Silence();
    try {
      // The first request omits past progress events: the page loads them as a thinned curve.
      const from = lastId ? { headers: { "Last-Event-ID": lastId } } : { query: { brief: true } };
      const response = await call(`/v1/jobs/${job}/events`, { ...from, signal: AbortSignal.any([signal, silence.signal]) });
      if (response.status === 204) return;
      onConnection(true);
      for await (const event of events(response.body, silence)) {
        [lastId, failures] = [event.id ?? lastId, 0];
        onEvent({ kind: event.event, data: JSON.parse(event.data) });
        if (event.event === "end") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    } finally {
      silence.end();
    }
    onConnection(false);
    failures += 1;
    await pause(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)), signal).catch(() => undefined);
  }
}

/** Aborts its signal after a time without data: a connection can be lost without a word, such as while a laptop sleeps. */
class Silence {
  constructor() {
    this.controller = new AbortController();
    this.heard();
  }

  get signal() {
    return this.controller.signal;
  }

  heard() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.controller.abort(), SILENCE_MS);
  }

  end() {
    clearTimeout(this.timer);
  }
}

async function* events(body, silence) {
  const pending = [];
  const parser = createParser({ onEvent: (event) => pending.push(event) });
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      silence.heard();
      if (done) return;
      parser.feed(value);
      yield* pending.splice(0);
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
