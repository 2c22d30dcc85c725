"""What tests of the Models page open and look at."""

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.accessibility import axe

SHIPPED = "mnist-snf-glow"


def opened(page: Page, name: str, tab: str = "overview") -> None:
    page.goto(f"/#/models/{name}/{tab}")
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()


def line(where: Page | Locator, name: str | re.Pattern[str]) -> Locator:
    """The row of a table that has this header."""
    page = where if isinstance(where, Page) else where.page
    return where.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))


def fact(page: Page, name: str) -> Locator:
    """The value of a pair of name and value."""
    return page.get_by_role("term").filter(has_text=re.compile(f"^{name}$")).locator("xpath=following-sibling::dd[1]")


def fits(page: Page) -> None:
    """Nothing is wider than the window, and axe finds nothing."""
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0, f"the page is {overflow} pixels wider than its window"
    axe(page)
