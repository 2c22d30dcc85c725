"""The Score page in a real browser, by real models."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from snf_client.images import files_in
from tests.browser.collector import Collector
from tests.browser.helpers import axe, drop, fits, in_every_look, paste, score_page, scored, toast
from tests.support.image_files import encoded, exif
from tests.support.paths import DIGITS

pytestmark = pytest.mark.timeout(120)

EXAMPLES = 10
REFUSED = "status of 422.*/score"


def row(page: Page, name: str) -> Locator:
    """The table's row of an image."""
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=name, exact=True))


@in_every_look
def test_examples_are_scored_and_explained(page: Page, screenshot: Callable[[Page, str], None]) -> None:
    score_page(page)
    page.get_by_role("button", name=f"all {EXAMPLES}").click()
    scored(page, EXAMPLES)
    page.get_by_role("button", name="p-value").click()
    page.get_by_role("button", name="digit-hole.png").click()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()
    expect(page.get_by_text("plainer than its surroundings suggest")).to_be_visible()
    histogram = page.get_by_role("img", name="Histogram of statistic T of 5000 calibration images")
    assert histogram.locator("canvas").bounding_box() is not None
    fits(page)
    screenshot(page, "score")
    pictures_are_enlarged(page)
    anomalies_are_shown_alone(page)


def test_a_row_opens_where_it_is_clicked_and_its_heat_map_is_faded(
    page: Page, screenshot: Callable[[Page, str], None]
) -> None:
    score_page(page)
    page.get_by_role("button", name=f"all {EXAMPLES}").click()
    scored(page, EXAMPLES)
    found = row(page, "digit-noise.png")
    found.locator(".verdict").click(position={"x": 1, "y": 1})
    heat = page.get_by_alt_text("Heat map")
    expect(heat).to_have_css("opacity", "1")
    expect(
        page.get_by_text(re.compile(r"Outlined in yellow: \d+ regions at a false-alarm rate of 1 %"))
    ).to_be_visible()
    lies, below = heat.bounding_box(), page.locator(".framed > img").first.bounding_box()
    assert lies is not None
    assert lies == pytest.approx(below)
    screenshot(page, "score-heat-map")
    slider = page.get_by_role("slider", name="Heat map opacity")
    slider.press("Home")
    expect(heat).to_have_css("opacity", "0")
    slider.press("ArrowRight")
    expect(heat).to_have_css("opacity", "0.05")
    # Colours and regions are those of the verdict.
    with page.expect_request(re.compile(r"explain=true.*alpha=0\.0002")):
        page.get_by_role("slider", name="False-alarm rate").press("Home")
    expect(page.get_by_text(re.compile(r"No region stands out at a false-alarm rate of 0\.02 %"))).to_be_visible()
    found.locator(".thumb").click()
    expect(heat).to_have_count(0)
    page.reload()
    page.get_by_role("button", name="a handwritten 2").click()
    scored(page, 1)
    row(page, "digit-2.png").get_by_role("button").press("Enter")
    expect(heat).to_have_css("opacity", "0.05")


def pictures_are_enlarged(page: Page) -> None:
    """Zoom the opened image by keyboard: its regions stay where they are on it."""
    button = page.get_by_role("button", name="Zoom the image")
    button.press("Enter")
    dialog = page.get_by_role("dialog", name="digit-hole.png")
    picture, region = dialog.get_by_alt_text("digit-hole.png"), dialog.locator(".framed > i").first
    expect(picture).to_have_class("pixels")
    scale, before = dialog.get_by_role("status"), place_on(picture, region)
    fitting = float(scale.inner_text().rstrip(" %").replace(",", ""))
    page.keyboard.press("+")
    expect(scale).to_have_text(f"{1.5 * fitting:,.0f} %")
    assert place_on(picture, region) == pytest.approx(before, abs=0.02)
    area = dialog.get_by_role("region", name="digit-hole.png, 28×28 pixels")
    page.keyboard.press("Home")
    start = area.evaluate("area => [area.scrollLeft, area.scrollTop]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert area.evaluate("area => [area.scrollLeft, area.scrollTop]") != start
    axe(page)
    page.keyboard.press("0")
    expect(scale).to_have_text(f"{fitting:,.0f} %")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()


def place_on(picture: Locator, region: Locator) -> list[float]:
    """The left and upper edge of a region, in shares of the picture."""
    whole, part = picture.bounding_box(), region.bounding_box()
    assert whole is not None
    assert part is not None
    return [(part["x"] - whole["x"]) / whole["width"], (part["y"] - whole["y"]) / whole["height"]]


def anomalies_are_shown_alone(page: Page) -> None:
    """Filter the table by keyboard; the file of it says that it is a part."""
    rows = page.locator("tbody tr:not(.opened) .verdict")
    page.get_by_role("radio", name=f"all ({EXAMPLES})").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="anomalies only (6)")).to_be_checked()
    expect(rows).to_have_text(6 * ["anomaly"])
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download CSV of 6 of {EXAMPLES} images").click()
    assert download.value.suggested_filename == "scores-mnist-snf-glow-anomalies.csv"
    table = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_bytes().decode())))
    assert [row["anomaly"] for row in table] == 6 * ["true"]
    statistics = [float(row["statistic"]) for row in table]
    assert statistics == sorted(statistics, reverse=True), "as in the table, which is sorted by p-value"
    page.get_by_role("radio", name="anomalies only (6)").press("ArrowRight")
    expect(page.get_by_text("Every image was judged.")).to_be_visible()
    expect(page.get_by_role("button", name=f"Download CSV of 0 of {EXAMPLES} images")).to_be_disabled()
    axe(page)


def test_dropped_images_have_the_services_own_numbers_sorted_in_parts_and_in_a_file(
    page: Page, house: httpx.Client, tmp_path: Path
) -> None:
    digit = DIGITS[0]
    files = {"images": (digit.name, digit.read_bytes())}
    said = house.post("/v1/models/mnist-snf-glow/score", files=files).json()["results"][0]
    # Names that are a formula of a spreadsheet and markup of a page are shown as names.
    formula, markup = tmp_path / "=1+1.png", tmp_path / "<img src=x onerror=alert(1)>.png"
    for named in (formula, markup):
        named.write_bytes(DIGITS[1].read_bytes())
    score_page(page)
    drop(page.get_by_role("main"), formula, markup, *DIGITS)
    scored(page, len(DIGITS) + 2)
    cells = row(page, digit.name).get_by_role("cell")
    expect(cells.nth(2)).to_have_text(f"{said['log_likelihood']:.2f}")
    expect(cells.nth(3)).to_have_text(f"{said['bits_per_dim']:.4f}")
    expect(cells.nth(5)).to_have_text("anomaly" if said["anomaly"]["is_anomaly"] else "normal")
    expect(page.get_by_role("button", name=markup.name)).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_bytes().decode())))
    assert [one["file"] for one in rows] == ["'=1+1.png", markup.name, *(one.name for one in DIGITS)]
    assert {one["model"] for one in rows} == {"mnist-snf-glow"}
    assert all((float(one["p_value"]) <= 0.01) == (one["anomaly"] == "true") for one in rows)

    drop(page.get_by_role("main"), *DIGITS, *DIGITS)
    count = 3 * len(DIGITS) + 2
    scored(page, count)
    heading = page.get_by_role("button", name="log-likelihood")
    heading.click()
    expect(page.get_by_role("columnheader", name="log-likelihood")).to_have_attribute("aria-sort", "ascending")
    values = page.locator("tbody tr td:nth-child(3)")
    found = [float(one) for one in values.all_inner_texts()]
    assert len(found) == 100
    assert found == sorted(found)
    heading.click()
    expect(page.get_by_role("columnheader", name="log-likelihood")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name=f"Show {count - 100} more").click()
    expect(values).to_have_count(count)


def test_the_false_alarm_rate_moves_verdicts_at_once_as_far_as_attainable(page: Page) -> None:
    score_page(page)
    expect(page.get_by_text("The smallest attainable is 0.02 % (1/(5,000 + 1), rounded up).")).to_be_visible()
    page.get_by_role("button", name="an 8 with a hole").click()
    scored(page, 1)
    verdict = row(page, "digit-hole.png").get_by_role("cell").last
    expect(verdict).to_have_text("normal")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    slider = page.get_by_role("slider", name="False-alarm rate")
    slider.fill("-1.2")
    expect(page.get_by_text("False-alarm rate: 6.3 %")).to_be_visible()
    expect(verdict).to_have_text("anomaly")
    slider.press("Home")  # as far as the calibration set goes
    expect(page.get_by_text("False-alarm rate: 0.02 %")).to_be_visible()
    expect(verdict).to_have_text("normal")
    assert not [url for url in asked if "/score" in url]


def test_a_threshold_that_contradicts_the_verdict_is_not_drawn(page: Page) -> None:
    def raised(route: Route) -> None:
        answer = route.fetch()
        reference = answer.json()
        for quantile in reference["quantiles"]:
            quantile["statistic"] += 100
        route.fulfill(response=answer, json=reference)

    page.route("**/reference", raised)
    score_page(page)
    page.get_by_role("button", name="an 8 with a hole").click()
    scored(page, 1)
    page.get_by_role("button", name="digit-hole.png").click()
    marks = "chart => chart.markers.map(({ label }) => label)"
    assert page.locator("snf-histogram").evaluate(marks) == ["this image", "flagged above"]
    page.get_by_role("slider", name="False-alarm rate").fill("-1.2")
    expect(page.get_by_text("Anomaly.", exact=True)).to_be_visible()
    assert page.locator("snf-histogram").evaluate(marks) == ["this image"]


def test_another_model_scores_the_same_images_anew(page: Page) -> None:
    score_page(page)
    page.get_by_role("button", name="trousers").click()
    scored(page, 1)
    verdict = row(page, "trousers.png").get_by_role("cell").last
    expect(verdict).to_have_text("anomaly")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/mnist-snf-glow:1/score?explain=true*", hold)
    with page.expect_request("**/mnist-snf-glow:1/score?explain=true*"):
        page.get_by_role("button", name="trousers.png").click()
    page.get_by_label("Model", exact=True).select_option("fashion-snf-glow")
    expect(page.get_by_text("scored by fashion-snf-glow:1")).to_be_visible()
    expect(verdict).to_have_text("normal")
    # A heat map that comes late is not that of another model.
    with page.expect_response("**/mnist-snf-glow:1/score?explain=true*"):
        held[0].continue_()
    with page.expect_request("**/fashion-snf-glow:1/score?explain=true*"):
        page.get_by_role("button", name="trousers.png").click()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()
    # A look at another page loses nothing.
    page.get_by_role("link", name="Samples").click()
    expect(page.get_by_role("heading", level=1, name="Samples")).to_be_visible()
    page.get_by_role("link", name="Score", exact=True).click()
    scored(page, 1)


def test_scores_by_another_version_are_named(page: Page) -> None:
    score_page(page)
    drop(page.get_by_role("main"), DIGITS[0])
    scored(page, 1)

    def newer(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "version": 2})

    page.route("**/score", newer)
    drop(page.get_by_role("main"), DIGITS[1])
    scored(page, 2)
    expect(page.get_by_text("1 image scored by an earlier version or calibration")).to_be_visible()
    page.unroute("**/score")
    page.get_by_role("button", name="Score all again").click()
    expect(page.get_by_text("scored by mnist-snf-glow:1")).to_be_visible()
    scored(page, 2)
    expect(page.get_by_role("button", name="Score all again")).to_have_count(0)


def test_an_answer_that_breaks_off_is_told_and_a_busy_service_is_waited_for(page: Page, collector: Collector) -> None:
    score_page(page)
    # An answer that breaks off stops nothing.
    page.route("**/score", lambda route: route.fulfill(content_type="application/json", body='{"results": ['))
    drop(page.get_by_role("main"), DIGITS[0])
    toast(page, "Try again.")
    expect(page.get_by_role("row", name=DIGITS[0].name)).to_contain_text("The answer of the service is incomplete")
    page.unroute("**/score")
    drop(page.get_by_role("main"), DIGITS[1])
    scored(page, 1)

    # A busy service is waited for.
    answers = iter([(429, {"Retry-After": "1"}), (503, {})])

    def busy(route: Route) -> None:
        found = next(answers, None)
        if found is None:
            route.continue_()
        else:
            status, headers = found
            body = '{"type": "queue-full", "title": "Too busy", "detail": "come back"}'
            route.fulfill(status=status, headers=headers, content_type="application/problem+json", body=body)

    page.route("**/score", busy)
    with collector.expected("status of 429"), collector.expected("status of 503"):
        drop(page.get_by_role("main"), DIGITS[2])
        scored(page, 2)
    page.unroute("**/score")
    broken = '{"type": "model-failed", "title": "The model could not be loaded", "detail": "its file is damaged"}'
    page.route("**/score", lambda route: route.fulfill(status=500, body=broken))
    with collector.expected("status of 500"):
        drop(page.get_by_role("main"), DIGITS[3])
        toast(page, "its file is damaged")
    expect(page.get_by_role("row", name=DIGITS[3].name)).to_contain_text("The model could not be loaded")


def test_images_of_a_request_that_is_too_large_are_sent_in_halves(page: Page, collector: Collector) -> None:
    calls: list[str] = []

    def first_is_too_large(route: Route) -> None:
        calls.append(route.request.url)
        if len(calls) == 1:
            body = '{"type": "content-too-large", "title": "Too large", "status": 413, "detail": "one request"}'
            route.fulfill(status=413, content_type="application/problem+json", body=body)
        else:
            route.continue_()

    score_page(page)
    page.route("**/score", first_is_too_large)
    with collector.expected("status of 413.*/score"):
        drop(page.get_by_role("main"), *DIGITS[:4])
        scored(page, 4)
    assert len(calls) == 3


def test_every_file_of_a_folder_the_clipboard_and_a_drop_is_named_or_counted(
    page: Page, collector: Collector, tmp_path: Path
) -> None:
    lot = tmp_path / "lot"
    lot.mkdir()
    turned = encoded(np.asarray(Image.open(DIGITS[0])), exif=exif(6))
    scan = encoded(np.asarray(Image.open(DIGITS[1])), "TIFF")
    files = {"turned.png": turned, "scan.tif": scan, "scan.heic": b"no image", "a.txt": b"notes", ".hidden.png": turned}
    files |= {"10.png": turned, "9.png": turned}
    for name, data in files.items():
        (lot / name).write_bytes(data)
    score_page(page)
    page.get_by_label("choose a folder").set_input_files(lot)
    scored(page, 4)
    natural = [path.relative_to(tmp_path).as_posix() for path in files_in(lot).files]
    assert natural[:2] == ["lot/9.png", "lot/10.png"]
    expect(page.locator("tbody .name")).to_have_text(natural)
    said = page.get_by_label("Scores").get_by_role("status")
    expect(said).to_contain_text("1 file not scored")
    expect(said).to_contain_text("2 files skipped")
    page.get_by_role("button", name="lot/turned.png", exact=True).click()
    expect(page.get_by_text("turned as its EXIF orientation 6 says")).to_be_visible()
    page.get_by_role("button", name="lot/scan.tif", exact=True).click()
    expect(page.get_by_text("This browser cannot show the file")).to_be_visible()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()

    paste(page, DIGITS[2])
    scored(page, 5)
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    with collector.expected(REFUSED):
        page.get_by_label("choose files").set_input_files(notes)
        expect(page.get_by_role("row", name="notes.txt")).to_contain_text("The file is not an image")
    drop(page.get_by_role("main"), DIGITS[3], notes)  # a bad file does not harm a good one
    scored(page, 6)
    expect(page.get_by_text("3 files not scored")).to_be_visible()
