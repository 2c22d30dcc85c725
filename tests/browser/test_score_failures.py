"""Images that cannot be scored, on the Score page in a real browser: what is said, and what is scored nevertheless."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.collector import Collector
from tests.browser.helpers import drop
from tests.support.paths import DIGITS

pytestmark = pytest.mark.timeout(120)


def opened(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()


def refusal(status: int, detail: str) -> dict[str, object]:
    body = {"type": "refused", "title": "Refused", "status": status, "detail": detail}
    return {"status": status, "json": body, "content_type": "application/problem+json"}


def test_who_gives_no_key_for_many_images_is_asked_once(page: Page, collector: Collector) -> None:
    opened(page)
    count = 3 * len(DIGITS)
    page.route("**/score", lambda route: route.fulfill(**refusal(401, "the key has expired")))
    with collector.expected("status of 401"):
        drop(page.get_by_role("main"), *DIGITS, *DIGITS, *DIGITS)
        dialog = page.get_by_role("dialog", name="Enter an API key")
        expect(dialog).to_contain_text("the key has expired")
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text(f"{count} files not scored")
    expect(dialog).to_be_hidden()
    expect(page.locator(".toast")).to_have_count(1)


def test_an_error_of_many_requests_is_one_message(page: Page, collector: Collector) -> None:
    opened(page)
    count = 3 * len(DIGITS)
    page.route("**/score", lambda route: route.fulfill(**refusal(500, "the disk is full")))
    with collector.expected("status of 500"):
        drop(page.get_by_role("main"), *DIGITS, *DIGITS, *DIGITS)
        expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text(f"{count} files not scored")
    expect(page.locator(".toast")).to_have_count(1)
