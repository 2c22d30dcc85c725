"""Images that cannot be scored, on the Score page in a real browser: what is said, and what is scored nevertheless."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.collector import Collector
from tests.browser.helpers import drop, score_page, scored, toast
from tests.support.paths import DIGITS

pytestmark = pytest.mark.timeout(120)

HELD = """
() => {
  const real = window.fetch;
  const opened = new Promise(resolve => { window.sendHeld = resolve; });
  window.fetch = async (path, options) => {
    if (String(path).includes("/score")) await opened;
    return real(path, options);
  };
}
"""
"""Holds requests for scores back until `sendHeld()`."""

UNREADABLE_FOLDER = """
() => {
  DataTransferItem.prototype.webkitGetAsEntry = function () {
    const dropped = this.getAsFile();
    const file = { isFile: true, fullPath: `/stick/${dropped.name}`, file: give => give(dropped) };
    const refuse = (_, reject) => reject(new DOMException("no permission", "NotReadableError"));
    const locked = { isFile: false, fullPath: "/stick/lost+found", createReader: () => ({ readEntries: refuse }) };
    const batches = [[file, locked], []];
    return { isFile: false, fullPath: "/stick", createReader: () => ({ readEntries: give => give(batches.shift()) }) };
  };
}
"""
"""Turns a dropped file into a folder with it and with a folder without permission, which the superuser could read."""


MANY = 3 * len(DIGITS)
"""Images of several requests."""


def refusal(status: int, detail: str) -> dict[str, object]:
    body = {"type": "refused", "title": "Refused", "status": status, "detail": detail}
    return {"status": status, "json": body, "content_type": "application/problem+json"}


def drop_where_all_fail(page: Page, status: int, detail: str) -> None:
    """Drops images for several requests, each of which is refused."""
    score_page(page)
    page.route("**/score", lambda route: route.fulfill(**refusal(status, detail)))
    drop(page.get_by_role("main"), *DIGITS, *DIGITS, *DIGITS)


def test_what_is_refused_is_said_once_and_asked_for_again(page: Page, collector: Collector) -> None:
    def lost(route: Route) -> None:
        route.fulfill(**refusal(500, "a moment of weakness"))

    page.route("**/reference", lost)
    with collector.expected("status of 500"):
        page.goto("/")
        toast(page, "a moment of weakness")
    page.unroute("**/reference")
    page.get_by_role("button", name="a handwritten 7").click()
    expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()
    page.get_by_role("button", name="digit-7.png").click()
    expect(page.get_by_role("img", name="Histogram of statistic T of 5000 calibration images")).to_be_visible()

    # An error of many requests is one message.
    with collector.expected("status of 500"):
        drop_where_all_fail(page, 500, "the disk is full")
        expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text(f"{MANY} files not scored")
    expect(page.locator(".toast")).to_have_count(1)

    # Who gives no key for many images is asked once.
    with collector.expected("status of 401"):
        drop_where_all_fail(page, 401, "the key has expired")
        dialog = page.get_by_role("dialog", name="Enter an API key")
        expect(dialog).to_contain_text("the key has expired")
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text(f"{MANY} files not scored")
    expect(dialog).to_be_hidden()
    expect(page.locator(".toast")).to_have_count(1)


def test_a_file_that_was_deleted_is_named_and_harms_no_other(page: Page, collector: Collector, tmp_path: Path) -> None:
    lot = tmp_path / "lot"
    lot.mkdir()
    for path in DIGITS[:12]:
        shutil.copy(path, lot)
    score_page(page)
    page.evaluate(HELD)
    page.get_by_label("choose a folder").set_input_files(lot)
    expect(page.get_by_role("row", name=f"lot/{DIGITS[9].name}")).to_be_visible()
    (lot / DIGITS[9].name).unlink()
    with collector.expected("net::ERR"):
        page.evaluate("sendHeld()")
        scored(page, 11)
    collector.found = [one for one in collector.found if "failed request" not in one]  # the browser could not send it
    lost = page.get_by_role("row", name=f"lot/{DIGITS[9].name}")
    expect(lost).to_contain_text("was changed, moved or deleted after it was chosen")
    page.get_by_role("link", name="Train").click()
    expect(page.get_by_role("radio", name="mnist-mini")).to_be_enabled()
    page.get_by_label("choose a folder").set_input_files(lot)
    (lot / DIGITS[8].name).unlink()
    with collector.expected("net::ERR"):
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text(f"lot/{DIGITS[8].name} was changed, moved or deleted")
    collector.found = [one for one in collector.found if "failed request" not in one]


def test_a_folder_is_taken_without_what_cannot_be_read_and_with_any_number_of_images(page: Page) -> None:
    score_page(page)
    page.evaluate(UNREADABLE_FOLDER)
    drop(page.get_by_role("main"), DIGITS[0])
    expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text("1 image scored")
    toast(page, "1 file or folder cannot be read and is left out: stick/lost+found")

    # More images than a call may have arguments.
    many = """async () => {
      const { Queue } = await import("/console/js/score/queue.js");
      const queue = new Queue({ changed() {}, failed() {} });
      const file = new File([], "a.png");
      queue.add(Array.from({ length: 200_000 }, (_, place) => ({ file, name: `lot/${place}.png` })));
      return queue.items.length;
    }"""
    assert page.evaluate(many) == 200_000
    page.reload()  # at once: there are no addresses of 200,000 pictures to free
    expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()
