"""The events of a job as the pages of the console follow them."""

from playwright.sync_api import Page

SILENT = """async () => {
  const real = window.fetch;
  window.asked = 0;
  window.fetch = (path, options) => {
    if (!String(path).includes("/events")) return real(path, options);
    window.asked += 1;
    if (window.asked > 1) return Promise.resolve(new Response(null, { status: 204 }));
    const { signal } = options;
    const silent = { start: (stream) => signal.addEventListener("abort", () => stream.error(signal.reason)) };
    return Promise.resolve(new Response(new ReadableStream(silent)));
  };
  const { follow } = await import("/console/js/events.js");
  const options = { onEvent() {}, onConnection() {}, signal: new AbortController().signal };
  follow("job", options).then(() => { window.ended = true; });
}"""
"""Follows a job whose first stream of events falls silent, and whose second one says that the job has ended."""


def test_a_stream_that_falls_silent_is_opened_again(page: Page) -> None:
    page.clock.install()
    page.goto("/")
    page.evaluate(SILENT)
    page.clock.run_for(40_000)
    assert page.evaluate("window.asked") == 1, "the service sends at least a comment every 15 s"
    page.clock.run_for(10_000)
    page.wait_for_function("window.asked === 2 && window.ended")
