"""The harness itself: it finds what is wrong, forgives what is expected, and its gestures arrive."""

import pytest
from playwright.sync_api import Page

from tests.browser.collector import Collector
from tests.worker.support.helpers import until

pytestmark = pytest.mark.timeout(120)

ELSEWHERE = "http://elsewhere.example/pixel.png"

MISTAKES = [
    ("console.error('broken')", "console error: broken"),
    ("console.warn('old')", "console warning: old"),
    ("console.assert(false, 'odd')", "console assert: odd"),
    ("setTimeout(() => { throw new Error('thrown') })", "uncaught: Error: thrown"),
    ("void Promise.reject(new Error('rejected'))", "uncaught: Error: rejected"),
    ("void fetch('/v1/models/nobody')", "console error: Failed to load resource", "404", "/v1/models/nobody"),
    (
        f"document.body.appendChild(new Image()).src = '{ELSEWHERE}'",
        f"request to another host: {ELSEWHERE}",
        f"failed request: GET {ELSEWHERE}",
        "console error",
    ),
    (
        "void new WebSocket('ws://elsewhere.example/live')",
        "request to another host: ws://elsewhere.example/live",
        "console error: WebSocket",
    ),
    ("void open('about:blank').console.error('elsewhere')", "console error: elsewhere"),
]
"""Scripts, each with what the collector says of it."""


def blank(page: Page) -> None:
    """Opens a page of the service's address that allows everything: what the console forbids does not help here."""
    body = "<!doctype html><html lang=en><title>Blank</title><link rel=icon href=data:,><main><h1>Blank</h1></main>"
    page.route("**/blank", lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto("/blank")


def complaints(page: Page, collector: Collector, *says: str) -> str:
    """Waits until the check says all of `says`, and returns what it says; nothing of it counts any more."""
    until(lambda: page.title() and all(one in "\n".join(collector.found) for one in says))
    with pytest.raises(AssertionError, match="not clean") as refused:
        collector.check()
    collector.found.clear()
    return str(refused.value)


def test_the_collector_finds_what_a_page_must_not_do(page: Page, collector: Collector) -> None:
    blank(page)
    for script, *says in MISTAKES:
        page.evaluate(script)
        complaints(page, collector, *says)
