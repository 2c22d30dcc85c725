"""The service's own page in a real browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.accessibility import axe
from tests.browser.looks import in_every_look

pytestmark = pytest.mark.timeout(120)


@in_every_look
def test_the_page_is_clean_and_accessible(page: Page, screenshot: Callable[[Page, str], Path]) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("cell", name="mnist-snf-glow")).to_be_visible()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0, f"the page is {overflow} pixels wider than its window"
    axe(page)
    assert screenshot(page, "landing").stat().st_size > 0
