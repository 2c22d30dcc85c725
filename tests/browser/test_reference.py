"""Images by reference on the Train page, in a real browser."""

from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from snf_models.locations.location import Location
from tests.browser.collector import Collector
from tests.browser.model_pages import fits
from tests.support.referenced import digits, put


def test_images_are_referred_to_and_listed(page: Page, collector: Collector, house: httpx.Client, shared: Path) -> None:
    location = Location((shared / "lot 7").as_uri())
    put(location, "tar", digits())
    location.child("old.tar.gz").write(b"\x1f\x8b")
    page.goto("/#/train")
    expect(page.get_by_role("radio", name="mnist-mini")).to_be_enabled()
    page.get_by_text("Refer to images in a store or folder").click()
    refer = page.get_by_role("button", name="Refer")
    expect(refer).to_be_disabled()
    page.get_by_label("Name of the reference").fill("Not a name")
    expect(page.get_by_label("Name of the reference")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Name of the reference").fill("by-reference")
    page.get_by_label("Location").fill("file:///etc")
    with collector.expected("status of 422"):
        refer.click()
        expect(page.get_by_role("alert")).to_contain_text("SNF_ALLOWED_LOCATIONS")
    fits(page)
    page.get_by_label("Location").fill(location.url)
    refer.click()
    report = page.get_by_role("region", name="Dataset by-reference")
    expect(report.get_by_alt_text("Contact sheet of by-reference")).to_be_visible()
    expect(report).to_contain_text(location.url)
    expect(report).to_contain_text("3 tar archives")
    expect(report).to_contain_text("old.tar.gz")

    page.get_by_text("Refer to images in a store or folder").click()
    page.get_by_label("Name of the reference").fill("only-scored")
    page.get_by_label("Location").fill(location.url)
    page.get_by_role("checkbox", name="inspect").uncheck()
    with collector.expected("status of 422"):  # a training with it is refused
        refer.click()
        expect(page.get_by_role("region", name="Dataset only-scored")).to_contain_text(
            "only jobs of type score take it"
        )
        expect(page.get_by_role("region", name="Estimate").get_by_role("alert")).to_contain_text("not inspected")
    fits(page)
    page.get_by_role("region", name="Dataset only-scored").get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete only-scored?")
    expect(dialog).to_contain_text("Its images stay where they are.")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("radio", name="only-scored")).to_have_count(0)
    assert house.get("/v1/datasets/only-scored").status_code == 404
    assert (shared / "lot 7" / "00.tar").exists()
