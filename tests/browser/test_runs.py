"""The Runs page in a real browser: trainings chosen, their curves in one chart, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.accessibility import axe
from tests.browser.looks import in_every_look
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
def test_runs_are_compared(page: Page, ids: list[str], screenshot: Callable[..., Path]) -> None:
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
    expect(comparison.get_by_role("region", name="Results").get_by_role("row", name="test bits/dim")).to_contain_text(
        "1.1"
    )
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
    axe(page)
    assert screenshot(page, "runs").stat().st_size > 0
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    # The address is that of the comparison.
    assert page.url.endswith(f"#/runs/{ids[1]},{ids[0]},{ids[2]}")
    page.reload()
    expect(differing.get_by_role("columnheader")).to_have_count(3)


@pytest.mark.usefixtures("house")
def test_without_runs_the_page_says_how_to_get_some(page: Page) -> None:
    page.route("**/v1/runs?*", empty)
    page.goto("/#/runs")
    expect(page.get_by_text("No runs yet.")).to_be_visible()
    page.get_by_role("link", name="Start a training").click()
    expect(page.get_by_role("heading", level=1, name="Train")).to_be_visible()


def empty(route: Route) -> None:
    route.fulfill(json={"runs": [], "next": None})
