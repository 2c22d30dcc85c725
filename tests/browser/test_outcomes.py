"""The page of a job: its events, and what it came to, a table or a failure."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from pyarrow import parquet

from tests.end_to_end.support.uploads import upload
from tests.support.paths import DIGITS

pytestmark = pytest.mark.timeout(180)

MODEL = "mnist-snf-glow"
TRAINING: dict[str, Any] = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny"}
IMAGES = DIGITS[:20]
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def digits(house: httpx.Client) -> str:
    """A dataset of digits."""
    answer = upload(house, "digits", *((path.name, path.read_bytes()) for path in IMAGES))
    assert answer.status_code == 201, answer.text
    return "digits"


def queued(house: httpx.Client, **job: Any) -> str:
    """Queues a job; answers its id."""
    answer = house.post("/v1/jobs", json=job)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def opened(page: Page, job: str) -> None:
    page.goto(f"/#/train/{job}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded", timeout=PATIENCE_MS)


def test_scores_are_downloaded_as_a_table_or_named_at_a_location(
    page: Page, house: httpx.Client, digits: str, shared: Path
) -> None:
    output = f"{shared.as_uri()}/scores"
    scored = {"type": "score", "dataset": digits, "model": MODEL}
    kept, placed = queued(house, **scored), queued(house, **scored, parameters={"output": output})
    opened(page, kept)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the table").click()
    assert download.value.suggested_filename.endswith(".parquet")
    assert parquet.read_table(download.value.path()).num_rows == len(IMAGES)
    opened(page, placed)
    expect(page.get_by_role("region", name="All images are scored")).to_contain_text(output, timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Download the table")).to_have_count(0)
    assert parquet.read_table(shared / "scores" / "part-000000.parquet").num_rows == len(IMAGES)


def test_a_failed_training_says_what_helps(page: Page, house: httpx.Client) -> None:
    parameters = {"max_steps": 300, "batch_size": 8, "learning_rate": 1.0, "warmup_steps": 0, "gradient_clip": 1e6}
    job = queued(house, **TRAINING, model="lost", parameters=parameters)
    page.goto(f"/#/train/{job}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("failed", timeout=PATIENCE_MS)
    expect(page.get_by_role("alert")).to_contain_text("smaller learning rate")


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
