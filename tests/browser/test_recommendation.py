"""The question for a family on the Train page: a real comparison, its table, and the form filled with the proposal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.collector import Collector
from tests.browser.looks import in_every_look
from tests.browser.model_pages import fits

pytestmark = pytest.mark.timeout(180)

PARAMETERS = {"image_size": 27, "feature_side": 32, "shapes": ["missing-part"]}
"""A size that no pixel flow takes: a comparison of seconds."""
POLL_MS = 2000
"""Time between two questions of the page; its clock runs ahead, for a comparison works until it is cancelled."""


@pytest.fixture(scope="module")
def compared(house: httpx.Client, home: Path, backbones: Path) -> str:
    """The id of a finished comparison on the built-in digits."""
    shutil.copytree(backbones, home / "backbones", dirs_exist_ok=True)
    request = {"type": "recommend", "dataset": "mnist-mini", "parameters": PARAMETERS}
    answer = house.post("/v1/jobs", json=request)
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    while (state := house.get(f"/v1/jobs/{job}").json())["status"] in ("queued", "starting", "running"):
        time.sleep(0.3)
    assert state["status"] == "succeeded", state["error"]
    return job


@in_every_look
def test_the_proposal_fills_the_form(page: Page, compared: str, screenshot: Callable[[Page, str], None]) -> None:
    page.goto("/#/train")
    asking = page.get_by_role("group", name="Which family")
    expect(asking.get_by_role("button", name="Which family?")).to_be_disabled()
    page.get_by_role("radio", name="mnist-mini").check()
    expect(asking).to_contain_text("Proposal: features")
    expect(asking.get_by_role("listitem")).to_have_text(["the feature model is the only family that could be compared"])
    expect(asking).to_contain_text("pixels: snf-glow-small halves both sides")
    expect(asking.get_by_role("row").filter(has_text="features").first).to_contain_text("nats/value")
    asking.get_by_text("Detection limits").click()
    expect(asking.get_by_role("rowheader", name="missing part")).to_be_visible()
    screenshot(page, "recommendation")
    fits(page)
    asking.get_by_role("button", name="Use snf-features").click()
    expect(page.get_by_role("radio", name="defects of parts: features")).to_be_checked()
    page.get_by_text("More parameters").click()
    expect(page.get_by_label("image size", exact=True)).to_have_value("[27,27]")
    expect(page.get_by_role("region", name="Estimate").get_by_role("alert")).to_have_count(0)


def test_a_comparison_is_started_and_followed(
    page: Page, collector: Collector, house: httpx.Client, compared: str
) -> None:
    page.clock.install()
    page.goto("/#/train")
    page.get_by_role("radio", name="mnist-mini").check()
    asking = page.get_by_role("group", name="Which family")
    asking.get_by_role("button", name="Compare again").click()
    follow = asking.get_by_role("link", name="follow the job")
    expect(follow).to_be_visible()
    expect(asking.get_by_role("button", name="Which family?")).to_be_disabled()
    follow.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Comparison of families")
    job = page.url.rpartition("/")[2]
    # A moment without an answer is told, and forgotten with the next answer.
    page.route(f"**/v1/jobs/{job}", lambda route: route.fulfill(status=503, json={"detail": "a moment"}))
    with collector.expected("status of 503"):
        page.go_back()
        expect(asking.get_by_role("alert")).to_contain_text("a moment")
    page.unroute(f"**/v1/jobs/{job}")
    page.clock.run_for(POLL_MS)
    expect(asking.get_by_role("alert")).to_have_count(0)
    collector.found = [one for one in collector.found if "status of 503" not in one]  # asked again meanwhile
    assert house.get(f"/v1/jobs/{job}").json()["parameters"] == {"minutes": 10}
    assert house.post(f"/v1/jobs/{job}/cancel").status_code == 202
    page.goto(f"/#/train/{compared}")
    expect(page.get_by_role("heading", name="Proposed family: features")).to_be_visible()
