"""Calibrations and evaluations of a model, asked for on the Models page in a real browser."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import Page, Route, expect

from tests.browser.helpers import HEIGHT, LOOKS, SHIPPED, axe, fits, line, opened
from tests.end_to_end.support.service import await_job, files
from tests.end_to_end.support.uploads import upload
from tests.support.paths import DIGITS

pytestmark = pytest.mark.timeout(300)


def uploaded(house: httpx.Client, name: str, images: dict[str, Image.Image]) -> str:
    """Upload images by their names; return the name of their dataset."""
    made = []
    for file, image in images.items():
        data = io.BytesIO()
        image.save(data, "PNG")
        made.append((file, data.getvalue()))
    answer = upload(house, name, *made)
    assert answer.status_code == 201, answer.text
    return name


def grey(path: Path) -> Image.Image:
    return Image.open(path).convert("L")


@pytest.fixture(scope="module")
def negatives(house: httpx.Client) -> str:
    """A dataset of digits, black on white."""
    return uploaded(house, "negatives", {path.name: ImageOps.invert(grey(path)) for path in DIGITS})


@pytest.fixture(scope="module")
def strokes(house: httpx.Client) -> str:
    """Masks of the strokes of the digits."""
    masks = {f"{path.stem}_mask.png": grey(path).point(lambda level: 255 * (level > 127)) for path in DIGITS}
    return uploaded(house, "strokes", masks)


@pytest.fixture(scope="module")
def coloured(house: httpx.Client) -> str:
    """A dataset of red digits, which no model of grey images takes."""
    red = {
        f"{number}.png": ImageOps.colorize(grey(DIGITS[number % len(DIGITS)]), "black", (255, 60, 4 * number))
        for number in range(60)
    }
    return uploaded(house, "coloured", red)


def test_calibrations_are_made_compared_and_chosen(
    page: Page, house: httpx.Client, negatives: str, coloured: str, screenshot: Callable[[Page, str], None]
) -> None:

    def warn(route: Route) -> None:
        listed = house.get(f"/v1/models/{SHIPPED}/calibrations").json()
        listed["calibrations"][0]["warning"] = "gradient-evidence-ignored: as of an earlier version"
        route.fulfill(json=listed)

    page.route(f"**/v1/models/{SHIPPED}*/calibrations", warn, times=1)
    opened(page, SHIPPED, "calibrations")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("0, gradient-evidence-ignored: as of an earlier version")).to_be_visible()
    expect(panel.get_by_role("img", name="Histogram of statistic T of 5000 calibration images")).to_be_visible()
    expect(line(page, "0 in use")).to_contain_text("5,000")
    choice = panel.get_by_role("combobox", name="Dataset")
    expect(choice).to_have_value("")
    expect(panel.get_by_role("button", name="Calibrate")).to_be_disabled()
    expect(panel.get_by_text("Choose a dataset first.")).to_be_visible()
    refused = choice.locator(f"option[value={coloured}]")
    expect(refused).to_be_disabled()
    expect(refused).to_contain_text("are 3x28x28, this model takes 1x28x28")
    choice.select_option("mnist-mini")
    expect(panel.get_by_text("built-in images, and the model was trained on mnist")).to_be_visible()
    choice.select_option(negatives)
    panel.get_by_role("button", name="Calibrate").click()
    follow = panel.get_by_role("link", name="follow the job")
    expect(follow).to_be_visible()
    await_job(house, str(follow.get_attribute("href")).split("/")[-1], "succeeded")
    expect(panel.get_by_text("1, when it was made: its smallest p-value is 0.0667")).to_be_visible()
    expect(line(page, "0 in use")).to_be_visible()
    house.post(f"/v1/models/{SHIPPED}/score", files=files(*DIGITS)).raise_for_status()
    panel.get_by_role("button", name="Compare calibration 1").click()
    compared = panel.get_by_role("region", name="If calibration 1 is activated")
    said = house.get(f"/v1/models/{SHIPPED}/calibrations/1/comparison").json()["verdicts"]
    for row, sides in (
        ("smallest alpha", ["0.0002", "0.0667"]),
        ("can flag at", ["0.1 %, 0.5 %, 1 %, 2 %, 5 %, 10 %", "10 %"]),
        (f"anomalies of {said['images']} images", [str(said["anomalies_before"]), str(said["anomalies_after"])]),
    ):
        expect(line(compared, row).get_by_role("cell")).to_have_text(sides)
    expect(compared).to_contain_text("that this service process judged by this model version")
    axe(page)
    screenshot(page, "calibrations")
    assert house.get(f"/v1/models/{SHIPPED}/calibrations").json()["active"] == 0
    compared.get_by_role("button", name="Activate calibration 1").click()
    expect(line(page, "1 in use")).to_contain_text(negatives)
    expect(compared).to_be_hidden()
    expect(panel.get_by_role("img", name="Histogram of statistic T of 14 calibration images")).to_be_visible()
    expect(panel.get_by_text("needs 2,995 images")).to_be_visible()
    axe(page)
    panel.get_by_role("button", name="Compare calibration 0").click()
    panel.get_by_role("button", name="Activate calibration 0").click()
    expect(line(page, "0 in use")).to_be_visible()
    assert house.get(f"/v1/models/{SHIPPED}/calibrations").json()["active"] == 0


def choose_with_masks(page: Page, anomalous: str, masks: str) -> None:
    """Choose anomalous images, and then the masks of their defects."""
    page.get_by_role("checkbox", name=f"{anomalous}, {len(DIGITS)} images").check()
    page.get_by_role("combobox", name=f"Masks of the defects of {anomalous}").select_option(masks)


def test_an_evaluation_sends_what_was_chosen_before_the_form_changed(
    page: Page, negatives: str, strokes: str, coloured: str
) -> None:
    """Conversion makes a refused dataset usable and moves it up; a look at another tab builds the form anew."""
    opened(page, SHIPPED, "evaluations")
    panel = page.get_by_role("tabpanel")
    normal = panel.get_by_role("combobox", name="Normal images")
    normal.select_option("mnist-mini")
    choose_with_masks(page, negatives, strokes)
    panel.get_by_role("checkbox", name="normal images with graded corruptions").check()
    panel.get_by_role("checkbox", name="convert size and colour").check()
    expect(panel.get_by_role("checkbox", name=coloured)).to_be_enabled()
    masks = panel.get_by_role("combobox", name=f"Masks of the defects of {negatives}")
    expect(masks).to_have_value(strokes)
    expect(normal).to_have_value("mnist-mini")
    page.get_by_role("tab", name="Card").click()
    expect(panel.get_by_role("button", name="Download card.md")).to_be_visible()
    page.get_by_role("tab", name="Evaluations").click()
    for name in (negatives, "normal images with graded corruptions", "convert size and colour"):
        expect(panel.get_by_role("checkbox", name=name)).to_be_checked()
    page.route("**/v1/jobs", lambda route: route.fulfill(status=202, json={"id": "none"}))
    with page.expect_request("**/v1/jobs") as sent:
        panel.get_by_role("button", name="Evaluate").click()
    body = sent.value.post_data_json
    assert body["dataset"] == "mnist-mini"
    parameters = body["parameters"]
    assert (parameters["against"], parameters["masks"]) == ([negatives], {negatives: strokes})
    assert parameters["corruptions"]
    assert parameters["adapt"]


def places_are_shown(page: Page, said: dict[str, Any], anomalous: str, masks: str) -> None:
    """The figures of the masks stand in a line of their own."""
    assert (said["masks"], said["images"], said["unpaired"]) == (masks, len(DIGITS), 0)
    shown = line(page, f"{anomalous} {len(DIGITS)} with a mask")
    for name in ("pixel_auroc", "aupro"):
        expect(shown).to_contain_text(f"{said[name]:.4f}")


def the_report_is_printed(page: Page) -> None:
    """On paper there is the report alone, on white and with its collapsed parts open; the screen stays as it was."""
    panel = page.get_by_role("tabpanel")
    report, notes = panel.get_by_role("region", name="Report"), panel.get_by_text("baselines are fitted to")
    expect(report.get_by_role("button", name="Print")).to_be_visible()
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for shown in (report, notes, page.get_by_role("heading", level=1, name=SHIPPED)):
        expect(shown).to_be_visible()
    for hidden in (
        report.get_by_role("button"),
        panel.get_by_role("heading", name="Evaluate version"),
        page.locator(".top"),
    ):
        expect(hidden).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    paper = 718  # CSS pixels between the margins of A4
    parts = "[...document.querySelectorAll('.report table, .report svg')]"
    page.set_viewport_size({"width": paper, "height": HEIGHT})
    assert page.evaluate(f"Math.max(...{parts}.map(part => part.getBoundingClientRect().right))") <= paper
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen", color_scheme="light")
    expect(notes).to_be_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF-")
    expect(notes).to_be_hidden()


def the_decisive_columns_are_seen(page: Page) -> None:
    """What was found stands in sight on a desk and on a telephone, although tables may be wider."""
    for look in LOOKS:
        page.set_viewport_size({"width": look.width, "height": HEIGHT})
        for alpha in ("0.01", "0.05"):
            heading = page.get_by_role("columnheader", name=f"found at α = {alpha}").first
            box = heading.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= look.width, (look, alpha)
    page.set_viewport_size({"width": LOOKS[0].width, "height": HEIGHT})
    tables = "[...document.querySelectorAll('.scroll')].filter(part => part.checkVisibility())"
    assert page.evaluate(f"{tables}.every(part => part.scrollWidth <= part.clientWidth)")


def test_an_evaluation_is_asked_for_and_read(
    page: Page,
    house: httpx.Client,
    negatives: str,
    coloured: str,
    strokes: str,
) -> None:
    opened(page, SHIPPED, "evaluations")
    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("This model has no evaluation yet")).to_be_visible()
    normal = panel.get_by_role("combobox", name="Normal images")
    draft = {"type": "evaluate", "model": SHIPPED, "parameters": {"corruptions": True}}
    suggested = house.post("/v1/jobs/check-datasets", json=draft).json()["suggested"]
    expect(normal).to_have_value(suggested or "")
    too_few = normal.locator(f"option[value={negatives}]")
    expect(too_few).to_be_disabled()
    expect(too_few).to_have_text(f"{negatives} has {len(DIGITS)} images; at least 40 normal images are needed")
    expect(normal.locator(f"option[value={coloured}]")).to_be_disabled()
    anomalous = panel.get_by_role("checkbox", name=f"{coloured}: they are in colour")
    expect(anomalous).to_be_disabled()
    panel.get_by_role("checkbox", name="convert size and colour").check()
    expect(normal.locator(f"option[value={coloured}]")).to_be_enabled()
    panel.get_by_role("checkbox", name="convert size and colour").uncheck()
    expect(anomalous).to_be_disabled()
    normal.select_option("mnist-mini")
    panel.get_by_role("spinbutton", name="Maximum images per set").fill("40")
    expect(panel.get_by_role("button", name="Evaluate")).to_be_disabled()
    expect(panel.get_by_text("Choose anomalous images, or graded corruptions.")).to_be_visible()
    choose_with_masks(page, negatives, strokes)
    panel.get_by_role("button", name="Evaluate").click()
    expect(panel.get_by_role("link", name="follow the job")).to_be_visible()
    job = house.get("/v1/jobs", params={"type": "evaluate"}).json()["jobs"][0]["id"]
    await_job(house, job, "succeeded")
    said = house.get(f"/v1/jobs/{job}/result", params={"format": "json"}).json()
    expect(panel.get_by_role("heading", name=f"mnist-mini against {negatives}")).to_be_visible()
    auroc = said["sets"][0]["results"][0]["auroc"]
    expect(line(page, f"{negatives} {len(DIGITS)} images")).to_contain_text(f"{auroc:.4f}")
    places_are_shown(page, said["sets"][0]["localisation"], negatives, strokes)
    expect(panel.get_by_role("img", name="Histograms of combined score T")).to_be_visible()
    panel.get_by_text(f"{negatives}: ROC curves").click()
    expect(panel.get_by_role("img", name=f"ROC curves of {negatives}")).to_be_visible()
    fits(page)
    the_report_is_printed(page)
    page.set_viewport_size({"width": LOOKS[-1].width, "height": HEIGHT})
    fits(page)
    with page.expect_popup() as popup:
        panel.get_by_role("link", name="full report").click()
    the_decisive_columns_are_seen(popup.value)
    popup.value.close()

    page.goto(f"/#/train/{job}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded")
    written = page.get_by_role("region", name="The report is ready")
    expect(written).to_contain_text(re.compile(rf"AUROC{negatives} \d"))
    with page.expect_popup() as popup:
        written.get_by_role("link", name="Open the report").click()
    expect(popup.value.get_by_role("heading", level=1)).to_be_visible()
    popup.value.close()


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_a_detection_limit_is_measured_and_shown(
    page: Page, house: httpx.Client, look: object, screenshot: Callable[[Page, str], None]
) -> None:
    model = "mnist-snf-glow"
    opened(page, model, "limit")
    panel = page.get_by_role("tabpanel")
    house_limits = house.get(f"/v1/models/{model}/limits").json()["limits"]
    if not house_limits:  # the second look finds what the first has measured
        expect(panel.get_by_text("No detection limit of version 1 has been measured yet")).to_be_visible()
        fits(page)
        panel.get_by_role("combobox", name="Good images").select_option("mnist-mini")
        panel.get_by_label("Maximum images").fill("40")
        for shape in ("scratch", "stain", "hole"):
            panel.get_by_role("checkbox", name=shape).uncheck()
        panel.get_by_role("button", name="Measure").click()
        follow = panel.get_by_role("link", name="follow the job")
        expect(follow).to_be_visible()
        await_job(house, str(follow.get_attribute("href")).split("/")[-1], "succeeded")
        follow.click()
        expect(page.get_by_role("heading", name=f"Detection limit 1 of {model}:1 is measured")).to_be_visible()
        axe(page)
        page.get_by_role("link", name="Open the table and the curves").click()
    [measured] = house.get(f"/v1/models/{model}/limits").json()["limits"]
    missing = measured["limit"]["curves"][-1]
    assert missing["shape"] == "missing-part"
    cell = next(cell for cell in missing["cells"] if cell["size"] == missing["limit"])
    row = line(panel, "missing part")
    expect(row.get_by_role("cell")).to_have_text(
        [str(missing["limit"]), f"{cell['found']} of 40", f"{100 * cell['lower']:.1f} %"]
    )
    expect(
        panel.get_by_role(
            "img", name=f"Found share of missing part by size; limit in pixels: missing part: {missing['limit']}"
        )
    ).to_be_visible()
    expect(panel.get_by_text("40 images of mnist-mini")).to_be_visible()
    fits(page)
    screenshot(page, "limit")
    page.get_by_role("tab", name="Card").click()
    card = page.get_by_role("tabpanel", name="Card")
    expect(card.get_by_role("heading", name="Detection limit", exact=True)).to_be_visible()
    expect(panel.get_by_role("row").filter(has_text="missing part")).to_contain_text(f"{missing['limit']} pixels")
