"""What a job came to, on its page: a version to release, a table, a report, another try."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from pyarrow import parquet

from models.registry.registry import Registry
from tests.browser.helpers import toast
from tests.end_to_end.support.uploads import upload
from tests.support.paths import DIGITS
from tests.support.trained import barely_trained

pytestmark = pytest.mark.timeout(180)

MODEL, CLOTHES = "mnist-snf-glow", "fashion-snf-glow"
TRAINING: dict[str, Any] = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny"}
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def digits(house: httpx.Client) -> str:
    """A dataset of all digits of the tests."""
    answer = upload(house, "digits", *((path.name, path.read_bytes()) for path in DIGITS))
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


def test_a_second_version_is_made_live(
    page: Page, house: httpx.Client, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Registry(home / "registry").publish(barely_trained(tmp_path_factory), "released")
    opened(page, queued(house, **TRAINING, model="released", parameters={"max_steps": 5}))
    ready = page.get_by_role("region", name="The model released:2 is ready")
    expect(ready).to_contain_text("released uses version 1")
    ready.get_by_role("button", name="Make it live").click()
    toast(page, "released is now version 2")
    expect(ready.get_by_role("button", name="Make it live")).to_have_count(0)
    assert house.get("/v1/models/released").json()["version"] == 2
    ready.get_by_role("link", name="Draw samples").click()
    expect(page).to_have_url(re.compile("#/samples/released$"))


def test_the_table_of_a_scoring_job_is_downloaded(page: Page, house: httpx.Client, digits: str) -> None:
    opened(page, queued(house, type="score", dataset=digits, model=MODEL))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the table").click()
    assert download.value.suggested_filename.endswith(".parquet")
    assert parquet.read_table(download.value.path()).num_rows == len(DIGITS)


def test_the_report_of_an_evaluation_is_opened(page: Page, house: httpx.Client, digits: str) -> None:
    parameters = {"against": [digits], "images": 40}
    # The page of the models is tested with a model that has no evaluation yet: not this one.
    opened(page, queued(house, type="evaluate", dataset="mnist-mini", model=CLOTHES, parameters=parameters))
    written = page.get_by_role("region", name="The report is ready")
    expect(written).to_contain_text(re.compile(rf"{digits} 0\.\d+"))
    with page.expect_popup() as popup:
        written.get_by_role("link", name="Open the report").click()
    expect(popup.value.get_by_role("heading", level=1)).to_be_visible()
    popup.value.close()


def test_a_cancelled_training_is_tried_again(page: Page, house: httpx.Client) -> None:
    job = queued(house, **TRAINING, model="again", parameters={"max_steps": 10**6, "checkpoint_seconds": 1})
    page.goto(f"/#/train/{job}")
    title = page.get_by_role("heading", level=1)
    expect(title).to_contain_text("running", timeout=PATIENCE_MS)
    expect(page.get_by_text("checkpoint", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    assert house.post(f"/v1/jobs/{job}/cancel").status_code == 202
    expect(title).to_contain_text("cancelled", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Try again").click()
    toast(page, "A new job continues from the checkpoint")
    page.wait_for_url(re.compile(f"#/train/(?!{job})"))
    another = page.url.rpartition("/")[2]
    assert house.get(f"/v1/jobs/{another}").json()["retry_of"] == job
    expect(title).to_contain_text("running", timeout=PATIENCE_MS)
    assert house.post(f"/v1/jobs/{another}/cancel").status_code == 202
    expect(title).to_contain_text("cancelled", timeout=PATIENCE_MS)


def test_a_failed_training_says_what_helps(page: Page, house: httpx.Client) -> None:
    parameters = {"max_steps": 300, "learning_rate": 1.0, "warmup_steps": 0, "gradient_clip": 1e6}
    job = queued(house, **TRAINING, model="lost", parameters=parameters)
    page.goto(f"/#/train/{job}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("failed", timeout=PATIENCE_MS)
    expect(page.get_by_role("alert")).to_contain_text("smaller learning rate")
