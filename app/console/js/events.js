// Server-sent events of a job. The browser's own EventSource cannot send a key, so they come by fetch.
import { createParser } from "../vendor/eventsource-parser/index.js";
import { call, isAbort, pause, Problem } from "./service.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 15_000;

/**
 * Follows a job until its `end`: `tell` gets `{kind, data}` of every event once, whatever was restarted meanwhile, and
 * `lost` whether the connection is away. Ends when `signal` is aborted; raises what coming back would not mend.
 */
export async function follow(job, { tell, lost, signal }) {
  let last = "";
  let losses = 0;
  while (!signal.aborted) {
    try {
      // At first without the past's progress: pages ask for that in fewer points.
      const from = last ? { headers: { "Last-Event-ID": last } } : { query: { brief: true } };
      const response = await call(`/v1/jobs/${job}/events`, { ...from, signal });
      if (response.status === 204) return;
      lost(false);
      for await (const event of events(response.body)) {
        [last, losses] = [event.id ?? last, 0];
        tell({ kind: event.event, data: JSON.parse(event.data) });
        if (event.event === "end") return;
      }
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    }
    lost(true);
    losses += 1;
    await pause(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (losses - 1)), signal).catch(() => undefined);
  }
}

async function* events(body) {
  const found = [];
  const parser = createParser({ onEvent: (event) => found.push(event) });
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      parser.feed(value);
      yield* found.splice(0);
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
