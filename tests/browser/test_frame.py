"""The console's frame in a real browser: pages, themes, the key, and a service that is away."""

from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser.collector import Collector
from tests.browser.helpers import axe

pytestmark = pytest.mark.timeout(120)

PAGES = ("Score", "Samples", "Train", "Runs", "Models")
THEMES: list[tuple[Literal["light", "dark"], str]] = [("light", "dark"), ("dark", "light")]
BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"


def test_pages_are_reached_by_keyboard_and_named(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1, name="Score images")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for name in PAGES[1:]:
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        link.focus()
        page.keyboard.press("Enter")
        expect(link).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page).to_have_title(f"{name} · snf density")
        # Who cannot see the page change is put where it did.
        expect(page.get_by_role("main")).to_be_focused()


def test_a_link_that_was_cut_opens_its_page_and_an_unknown_one_the_first(page: Page, collector: Collector) -> None:
    with collector.expected("status of 404"):  # there is no run of this name
        page.goto("/#/runs/one%2")
        expect(page.get_by_role("heading", level=1, name="Runs")).to_be_visible()
    page.goto("/#/nothing/here")
    expect(page.get_by_role("heading", level=1, name="Score images")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", level=1, name="Score images")).to_be_visible()


def test_a_theme_that_was_chosen_stays(page: Page) -> None:
    page.goto("/")
    page.emulate_media(color_scheme="dark")
    expect(page.get_by_role("button", name="light theme")).to_be_visible()
    dark = page.evaluate(BACKGROUND)
    for preferred, other in THEMES:
        page.emulate_media(color_scheme=preferred)
        before = page.evaluate(BACKGROUND)
        page.get_by_role("button", name=f"{other} theme").click()
        chosen = page.evaluate(BACKGROUND)
        assert chosen != before
        assert (chosen == dark) == (other == "dark")
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate(BACKGROUND) == chosen
        axe(page)


def test_the_state_of_the_service_is_told(page: Page, collector: Collector) -> None:
    page.goto("/")
    status = page.get_by_role("banner").get_by_role("status")
    expect(status).to_have_text("ready")
    with collector.expected("ERR_FAILED"):
        page.route("**/readyz", lambda route: route.abort("failed"))
        expect(status).to_have_text("not answering")
    collector.found = [one for one in collector.found if "/readyz" not in one]
    page.unroute("**/readyz")
    expect(status).to_have_text("ready")
    without_jobs = {"status": "ready", "jobs": "degraded"}
    with collector.expected("status of 503"):
        page.route("**/readyz", lambda route: route.fulfill(status=503, json={"status": "loading", "jobs": "ok"}))
        expect(status).to_have_text("loading")
    page.route("**/readyz", lambda route: route.fulfill(json=without_jobs))
    expect(status).to_have_text("ready, jobs down")
    collector.found = [one for one in collector.found if "/readyz" not in one]


def test_the_calls_are_described_without_another_host(page: Page) -> None:
    page.goto("/docs")
    expect(page.get_by_text("Score images", exact=True)).to_be_visible()
    expect(page.get_by_text("/v1/models/{ref}/score")).to_be_visible()
    # A call from the page, which its content security policy allows.
    page.locator("#operations-operations-health button.opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response .microlight").first).to_contain_text('"alive"')
