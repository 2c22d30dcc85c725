"""The Runs page in a real browser: trainings chosen, their curves in one chart, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.collector import Collector
from tests.browser.helpers import fits, in_every_look
from tests.support.runs import SHIPPED, recorded

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def ids(home: Path) -> list[str]:
    """Two finished runs, one of them of the command line, and an unfinished one."""
    folder = home / "run-records"
    halved = {"max_steps": 40, "batch_size": 32, "learning_rate": 0.002, "image_size": None}
    return [
        recorded(folder),
        recorded(folder, origin="job", parameters=halved, bits=2.6),
        recorded(folder, finished=False, model="parts"),
    ]


@in_every_look
@pytest.mark.usefixtures("house")
def test_runs_are_compared(page: Page, ids: list[str], screenshot: Callable[[Page, str], None]) -> None:
    page.goto("/#/runs")
    expect(page.get_by_role("heading", level=1, name="Runs")).to_be_visible()
    expect(page.get_by_role("heading", name="Comparison")).to_have_count(0)
    boxes = page.get_by_role("checkbox", name=f"Compare {SHIPPED}")
    boxes.first.focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("Choose another training to compare it with.")).to_be_visible()
    boxes.nth(1).check()
    comparison = page.get_by_role("region", name="Comparison")
    differing = comparison.get_by_role("region", name="Parameters that differ")
    expect(differing.get_by_role("row", name="batch size")).to_contain_text("3264")
    expect(differing.get_by_role("row")).to_have_count(2)
    results = comparison.get_by_role("region", name="Results")
    expect(results.get_by_role("row", name="test bits/dim")).to_contain_text("1.0723")
    chart = comparison.get_by_role("img")
    expect(chart).to_have_accessible_name(
        f"validation bits/dim over steps: A {SHIPPED} ends at 1.61, B {SHIPPED} ends at 2.01"
    )
    comparison.get_by_text("training", exact=True).click()
    expect(chart).to_have_accessible_name(
        f"training bits/dim over steps: A {SHIPPED} ends at 1.6, B {SHIPPED} ends at 2"
    )
    comparison.get_by_text("reconstruction error", exact=True).click()
    expect(chart).to_contain_text("step")
    page.get_by_role("checkbox", name="Compare parts").check()
    expect(differing.get_by_role("columnheader")).to_have_count(3)
    fits(page)
    screenshot(page, "runs")
    # The address is that of the comparison.
    assert page.url.endswith(f"#/runs/{ids[1]},{ids[0]},{ids[2]}")
    page.reload()
    expect(differing.get_by_role("columnheader")).to_have_count(3)
    comparison.get_by_role("button", name="Remove C from the comparison").click()
    expect(differing.get_by_role("columnheader")).to_have_count(2)
    assert page.url.endswith(f"#/runs/{ids[1]},{ids[0]}")


def test_runs_that_are_gone_none_or_many_and_a_list_that_fails(
    page: Page, house: httpx.Client, ids: list[str], collector: Collector
) -> None:
    [known] = house.get("/v1/runs", params={"limit": 1, "after": ids[2]}).json()["runs"]
    a_run_without_a_record_leaves_the_others_and_can_be_removed(page, ids[0], collector)
    without_runs_the_page_says_how_to_get_some(page)
    all_runs_can_be_reached_and_trying_again_adds_no_polling(page, known, collector)


def a_run_without_a_record_leaves_the_others_and_can_be_removed(page: Page, other: str, collector: Collector) -> None:
    gone = "0" * 26
    with collector.expected(f"status of 404.*/v1/runs/{gone}"):
        page.goto(f"/#/runs/{gone},{other}")
    comparison = page.get_by_role("region", name="Comparison")
    results = comparison.get_by_role("region", name="Results")
    expect(results.get_by_role("row", name="test bits/dim")).to_contain_text("1.0723")
    expect(comparison.get_by_text(f"There is no record of run {gone}")).to_be_visible()
    comparison.get_by_role("button", name=f"Remove {gone}").click()
    expect(comparison.get_by_text("There is no record")).to_have_count(0)
    assert page.url.endswith(f"#/runs/{other}")


def without_runs_the_page_says_how_to_get_some(page: Page) -> None:
    page.route("**/v1/runs?*", lambda route: route.fulfill(json={"runs": [], "next": None}))
    page.goto("/#/runs")
    expect(page.get_by_text("No runs yet.")).to_be_visible()
    page.get_by_role("link", name="Start a training").click()
    expect(page.get_by_role("heading", level=1, name="Train")).to_be_visible()


def all_runs_can_be_reached_and_trying_again_adds_no_polling(
    page: Page, known: dict[str, Any], collector: Collector
) -> None:
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        query = parse_qs(urlsplit(route.request.url).query)
        first, limit = int(query.get("after", ["0"])[0]), int(query["limit"][0])
        numbers = range(first + 1, first + limit + 1)
        runs = [{**known, "id": str(number), "model": "m", "result": None} for number in numbers]
        route.fulfill(json={"runs": runs, "next": str(first + limit)})

    failing = {"type": "internal-error", "title": "Error", "status": 500, "detail": "no list"}
    page.route("**/v1/runs?*", lambda route: route.fulfill(status=500, json=failing))
    with collector.expected("status of 500"):
        page.goto("/#/runs")
    for _ in range(3):
        with collector.expected("status of 500"):
            page.get_by_role("button", name="Try again").click()
    page.route("**/v1/runs?*", answer)
    boxes = page.get_by_role("checkbox", name="Compare m")
    expect(boxes).to_have_count(20, timeout=15_000)
    asked.clear()
    page.wait_for_timeout(5500)
    assert len(asked) <= 2, "one poller asks every 5 s"
    for shown in range(40, 221, 20):
        page.get_by_role("button", name="Show more").click()
        expect(boxes).to_have_count(shown)
