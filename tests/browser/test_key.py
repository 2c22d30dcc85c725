"""The console of a service that asks for a key, without a job store."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from snf_worker.keys import KeyFile
from tests.browser.collector import Collector
from tests.browser.helpers import axe
from tests.end_to_end.support.service import MNIST, serving

pytestmark = pytest.mark.timeout(120)

KEY = "correct-horse-battery"
REFUSED = "status of 401"
FORBIDDEN = "status of 403"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A key that may only look."""
    return KeyFile(tmp_path_factory.getbasetemp() / "locked" / "keys.json").create("wall", "read")[1]


@pytest.fixture(scope="module")
def house(chromium: str, reader: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service alone, with keys."""
    home = tmp_path_factory.getbasetemp() / "locked"
    with serving(home, shipped=MNIST, api_keys=KEY, engine="torch") as client:
        yield client


def give(page: Page, key: str) -> None:
    """Types a key into the dialog and uses it."""
    dialog = page.get_by_role("dialog", name="Enter an API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def test_a_key_is_asked_for_and_kept_for_the_visit(page: Page, collector: Collector) -> None:
    with collector.expected(REFUSED):
        page.goto("/")
        expect(page.get_by_role("dialog")).to_be_visible()
    axe(page)
    with collector.expected(REFUSED):
        give(page, "wrong")
        expect(page.get_by_text("the key is not known")).to_be_visible()
    give(page, KEY)
    page.get_by_role("button", name="a handwritten 7").click()
    expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text("1 image scored")
    page.get_by_role("button", name="digit-7.png").click()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()
    page.reload()
    expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    stored = "[sessionStorage.getItem('snf-key'), localStorage.getItem('snf-key')]"
    assert page.evaluate(stored) == [KEY, None]


def test_who_gives_no_key_is_told_and_may_try_again(page: Page, collector: Collector) -> None:
    with collector.expected(REFUSED):
        page.goto("/")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("main")).to_contain_text("a key is needed and none was given")
    with collector.expected(REFUSED):
        page.get_by_role("button", name="Try again").click()
        give(page, KEY)
        expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()
    expect(page.get_by_role("banner").get_by_role("status")).to_have_text("ready, jobs down")


def test_a_key_that_no_header_can_have_is_refused_at_once(page: Page, collector: Collector) -> None:
    with collector.expected(REFUSED):
        page.goto("/")
        give(page, "correct\u2013horse")  # as a text program makes of a hyphen
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.get_by_label("Key", exact=True).evaluate("field => field.validity.patternMismatch")
        assert page.evaluate("sessionStorage.getItem('snf-key')") is None
        give(page, f" {KEY} ")
        expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()


def test_the_models_page_does_not_ask_again_and_again(page: Page, collector: Collector) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/" in request.url else None)
    page.clock.install()
    with collector.expected(REFUSED):
        page.goto("/#/models/mnist-snf-glow")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("main")).to_contain_text("a key is needed and none was given")
    before = len(asked)
    page.clock.run_for(30_000)
    assert len(asked) == before
    with collector.expected(REFUSED):
        page.get_by_role("button", name="Try again").click()
        give(page, KEY)
        expect(page.get_by_role("tab", name="Overview")).to_be_visible()
    with page.expect_request("**/v1/models"):
        page.clock.run_for(30_000)


def test_what_a_key_may_not_do_is_said_in_words_and_another_can_be_used(
    page: Page, collector: Collector, reader: str
) -> None:
    with collector.expected(REFUSED):
        page.goto("/")
        give(page, reader)
        expect(page.get_by_role("button", name="Key wall, role read: change key")).to_have_text("wall (read)")
    axe(page)
    with collector.expected(FORBIDDEN):
        page.get_by_role("button", name="a handwritten 7").click()
        expect(page.get_by_text("the key 'wall' has the role 'read'; this call needs 'score'").first).to_be_visible()
    page.get_by_role("button", name="Key wall").click()
    give(page, KEY)
    expect(page.get_by_role("banner").get_by_role("button", name="role admin")).to_be_visible()
    page.get_by_role("button", name="a handwritten 7").click()
    expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text("1 image scored")
