"""The Models page in a real browser: shipped models, and one of two versions."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from snf_models.registry.registry import Registry
from tests.browser.collector import Collector
from tests.browser.helpers import SHIPPED, axe, fact, fits, in_every_look, line, opened, slow_uploads, toast
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.trained import barely_trained

pytestmark = pytest.mark.timeout(300)

TABS = ("Overview", "Versions", "Calibrations", "Evaluations", "Detection limit", "Audit", "Drift", "Card")


@pytest.fixture(scope="module")
def digits(house: httpx.Client, home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of two versions, the first of them live, which no test changes."""
    for seed in range(2):
        Registry(home / "registry").publish(barely_trained(tmp_path_factory, seed), "digits")
    assert house.get("/v1/models/digits:2").status_code == 200
    return "digits"


@pytest.fixture
def another(request: pytest.FixtureRequest, house: httpx.Client, home: Path, digits: str) -> str:
    """The same two versions under a name that is the test's own, to change as it likes."""
    name = request.function.__name__.removeprefix("test_").replace("_", "-")
    shutil.copytree(home / "registry" / digits, home / "registry" / name)
    assert house.get(f"/v1/models/{name}:2").status_code == 200
    return name


def aliases(house: httpx.Client, name: str) -> dict[str, int]:
    found: list[dict[str, Any]] = house.get("/v1/models").json()["models"]
    return {str(key): int(value) for one in found if one["name"] == name for key, value in one["aliases"].items()}


@in_every_look
def test_models_are_listed_and_their_tabs_are_reached_by_keyboard_fit_and_are_accessible(
    page: Page, house: httpx.Client, digits: str, screenshot: Callable[[Page, str], None]
) -> None:
    page.goto("/#/models")
    for one in house.get("/v1/models").json()["models"]:
        row = line(page, re.compile(f"^{one['name']}( shipped)?$"))
        expect(row).to_contain_text(one["architecture"])
        if one["test_bits_per_dim"] is not None:  # models of features, of other tests, have nats alone
            expect(row).to_contain_text(f"{one['test_bits_per_dim']:.4f}")
        live = one["aliases"].get("live")  # other tests have models without a live version
        expect(row).to_contain_text("unfit" if live is None else f"live → {live}")
    fits(page)
    screenshot(page, "models")
    page.get_by_role("link", name=digits, exact=True).click()
    expect(page.get_by_role("heading", level=1, name=digits)).to_be_visible()
    expect(page).to_have_title(f"{digits} · snf density")

    opened(page, SHIPPED)
    page.get_by_role("tab", name=TABS[0]).focus()
    for tab in TABS:
        key = tab.lower().split()[-1]
        expect(page.get_by_role("tab", name=tab, selected=True)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        fits(page)
        screenshot(page, f"models-{key}")
        expect(page).to_have_url(re.compile(f"#/models/{SHIPPED}/{key}$"))
        page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name=TABS[0], selected=True)).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name=TABS[-1], selected=True)).to_be_focused()


def test_overview_card_and_audit_agree_with_the_service(
    page: Page, house: httpx.Client, screenshot: Callable[[Page, str], None]
) -> None:
    detail = house.get(f"/v1/models/{SHIPPED}").json()
    manifest, serving = detail["manifest"], detail["serving"]
    opened(page, SHIPPED)
    expect(fact(page, "test bits/dim")).to_have_text(f"{manifest['evaluation']['test_bits_per_dim']:.4f}")
    expect(fact(page, "engine")).to_have_text(serving["engine"])
    listed = next(one for one in house.get("/v1/models").json()["models"] if one["name"] == SHIPPED)
    expect(fact(page, "architecture")).to_have_text(listed["architecture"].removeprefix(f"{SHIPPED}: "))
    expect(fact(page, "cached log-dets")).to_contain_text(f"{serving['log_det_total']:.3f} nats")
    expect(fact(page, "weights digest")).to_have_text(serving["log_det_digest"][:12])
    expect(fact(page, "steps")).to_contain_text(f"{manifest['training']['steps']:,}")

    page.get_by_role("tab", name="Card").click()
    expect(page.get_by_role("heading", name="Limits")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    samples = page.get_by_role("img", name=f"Samples of {SHIPPED}:1")
    expect(samples).to_be_visible()
    assert samples.evaluate("image => image.decode().then(() => image.naturalWidth)") > 28
    with page.expect_download() as download:
        page.get_by_role("button", name="Download card.md").click()
    assert download.value.suggested_filename == f"{SHIPPED}-1.md"
    assert Path(download.value.path()).read_text() == house.get(f"/v1/models/{SHIPPED}/card").text

    page.get_by_role("tab", name="Audit").click()
    panel = page.get_by_role("tabpanel")
    panel.get_by_role("button", name="Audit").click()
    expect(panel.get_by_role("status")).to_contain_text(re.compile("Agrees within .* nats, tolerance "))
    said = house.get(f"/v1/models/{SHIPPED}/audit", params={"n": 4}).json()
    for one in said["images"]:
        row = line(page, re.compile(f"^{one['index'] + 1} stored with the model"))
        expect(row).to_contain_text(f"{one['recomputed']:.6f}")
    expect(line(page, "all layers")).to_contain_text(f"{said['total']['cached']:.6f}")
    screenshot(page, "audit")
    panel.get_by_text(f"{len(said['log_dets'])} layers in detail").click()
    expect(line(page, said["log_dets"][-1]["layer"])).to_contain_text(f"{said['log_dets'][-1]['recomputed']:.6f}")
    axe(page)


def test_images_are_scored_with_the_model_of_the_page(page: Page) -> None:
    opened(page, "fashion-snf-glow")
    page.get_by_role("button", name="Score images").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("fashion-snf-glow")


def test_what_is_not_there_or_does_not_answer_is_said(page: Page, digits: str, collector: Collector) -> None:
    page.goto("/#/models/nobody")
    expect(page.get_by_text("No model has this name")).to_be_visible()
    page.goto(f"/#/models/{digits}:9")
    page.get_by_role("link", name="Open the live version").click()
    expect(page.get_by_role("combobox", name="Version")).to_have_value("1")
    page.get_by_role("combobox", name="Version").select_option("2")
    expect(page).to_have_url(re.compile(f"#/models/{digits}:2/overview$"))
    expect(page.get_by_role("button", name="Score with live version 1")).to_be_visible()

    # Jobs that cannot be asked for leave the rest.
    problem = {"type": "broker-down", "title": "The job store does not answer", "status": 503, "detail": "try later"}
    page.route("**/v1/jobs?*", lambda route: route.fulfill(status=503, json=problem))
    with collector.expected("status of 503"):
        opened(page, SHIPPED, "evaluations")
        expect(page.get_by_role("tabpanel").get_by_text("try later")).to_be_visible()
    page.get_by_role("tab", name="Overview").click()
    expect(fact(page, "engine")).to_be_visible()

    # A service that is away is waited for.
    opened(page, SHIPPED, "drift")
    with collector.expected("ERR_FAILED"):
        page.route("**/v1/**", lambda route: route.abort("failed"))
        expect(page.get_by_text("Check that it is running")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Drift")).to_be_visible()
    axe(page)
    page.unroute("**/v1/**")
    expect(page.get_by_text("Check that it is running")).to_have_count(0)
    collector.found = [one for one in collector.found if "/v1/models" not in one]


def test_versions_are_released_rolled_back_and_deleted(
    page: Page, house: httpx.Client, another: str, collector: Collector
) -> None:
    name = another
    opened(page, name, "versions")
    panel = page.get_by_role("tabpanel")
    expect(line(page, "2")).to_contain_text("mnist-mini")

    line(page, "2").get_by_role("button", name="Make live").click()
    expect(panel.get_by_role("status")).to_contain_text("live is now version 2, it was 1")
    assert aliases(house, name) == {"live": 2}
    expect(panel).to_be_focused()  # the button is gone
    expect(page.get_by_role("combobox", name="Version", exact=True)).to_have_value("2")
    axe(page)
    panel.get_by_role("button", name="Roll back to 1").click()
    expect(panel.get_by_role("status")).to_contain_text("live is now version 1, it was 2")
    assert aliases(house, name) == {"live": 1}

    panel.get_by_role("textbox", name="Name of a new alias").fill("champion")
    panel.get_by_role("combobox", name="Version of the new alias").select_option("2")
    panel.get_by_role("button", name="Add alias").click()
    expect(panel.get_by_role("status")).to_contain_text("champion is now version 2")
    expect(panel.get_by_role("combobox", name="Version of the alias champion")).to_have_value("2")
    assert aliases(house, name) == {"live": 1, "champion": 2}

    dialog = page.get_by_role("dialog")
    with collector.expected("status of 409"):
        panel.get_by_role("button", name="Delete version 2").click()
        axe(page)
        dialog.get_by_role("button", name="Delete").click()
        toast(page, f"{name}:2 has the alias champion")
    panel.get_by_role("button", name="Remove the alias champion").click()
    dialog.get_by_role("button", name="Cancel").click()
    assert aliases(house, name) == {"live": 1, "champion": 2}
    panel.get_by_role("button", name="Remove the alias champion").click()
    dialog.get_by_role("button", name="Remove").click()
    expect(panel.get_by_role("combobox", name="Version of the alias champion")).to_have_count(0)
    panel.get_by_role("button", name="Delete version 2").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(line(page, "2")).to_have_count(0)
    assert house.get(f"/v1/models/{name}:2").status_code == 404

    panel.get_by_role("button", name="Delete the model").click()
    expect(dialog).to_contain_text("Its only version and all calibrations")
    dialog.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("#/models$"))
    expect(line(page, SHIPPED)).to_have_count(1)
    expect(line(page, name)).to_have_count(0)
    assert house.get(f"/v1/models/{name}").status_code == 404
    page.goto(f"/#/models/{SHIPPED}/versions")
    expect(line(page, "1")).to_contain_text("shipped")
    expect(page.get_by_role("button", name="Delete the model")).to_have_count(0)


def test_a_damaged_version_is_named_and_another_made_live(
    page: Page, house: httpx.Client, home: Path, another: str, collector: Collector
) -> None:
    name = another
    assert house.put(f"/v1/models/{name}/aliases/live", json={"version": 2}).status_code == 200
    (home / "registry" / name / "2" / "manifest.json").write_text("{")
    page.goto("/#/models")
    expect(line(page, name)).to_contain_text("failed")
    with collector.expected("status of 500"):
        page.goto(f"/#/models/{name}")
        expect(page.get_by_text("Version 2 cannot be used")).to_be_visible()
    axe(page)
    line(page, "1").get_by_role("button", name="Make live").click()
    expect(page.get_by_role("combobox", name="Version", exact=True)).to_have_value("1")
    expect(page.get_by_role("tab", name="Overview")).to_be_visible()
    expect(line(page, "2")).to_contain_text("damaged")
    collector.found = [one for one in collector.found if "status of 500" not in one]


def test_drift_is_told_by_source_seen_everywhere_and_acknowledged(
    page: Page, house: httpx.Client, another: str, screenshot: Callable[[Page, str], None]
) -> None:
    name = another
    answer = house.post(f"/v1/models/{name}/score", params={"source": "line 1/left"}, files=files(*[DIGITS[0]] * 60))
    assert answer.status_code == 200, answer.text
    page.goto("/#/models")
    line(page, re.compile(f"^{name}$")).get_by_role("link", name="drift", exact=True).click()
    expect(page.get_by_role("tabpanel", name="Drift")).to_be_visible()
    for tab in ("Overview", "Card"):
        page.get_by_role("tab", name=tab).click()
        expect(
            page.get_by_text("Drift (all sources, line 1/left): the images differ from the calibration images")
        ).to_be_visible()
    page.get_by_role("link", name="Show drift").click()
    fits(page)
    axe(page)
    screenshot(page, "drift-alarm")
    button, dialog = page.get_by_role("button", name="Acknowledge drift of line 1/left"), page.get_by_role("dialog")
    button.click()
    expect(dialog).to_contain_text("60 images is dropped")
    dialog.get_by_role("button", name="Cancel").click()
    assert len(house.get(f"/v1/models/{name}/drift").json()["drift"]) == 2
    button.click()
    dialog.get_by_role("button", name="Acknowledge").click()
    expect(line(page, "line 1/left")).to_have_count(0)
    page.get_by_role("button", name="Acknowledge drift of all sources").click()
    dialog.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("No image with a source was scored")).to_be_visible()
    expect(page.get_by_text("differ from the calibration images")).to_have_count(0)
    assert house.get(f"/v1/models/{name}").json()["drift"] == []

    panel = page.get_by_role("tabpanel")
    expect(panel.get_by_text("/score?source=camera-1")).to_be_visible()
    for source, images in (("line-1", DIGITS), ("camera-2", [DIGITS[0]] * 60)):
        answer = house.post(f"/v1/models/{name}/score", params={"source": source}, files=files(*images))
        assert answer.status_code == 200, answer.text
    # It comes by itself, within seconds.
    expect(line(page, "line-1")).to_contain_text("no drift")
    expect(line(page, "camera-2")).to_contain_text("drift since")
    expect(panel.get_by_role("status")).to_contain_text("raise an alarm")
    expect(line(page, "camera-2")).to_contain_text("by anomaly statistic, alarm from 2000")
    expect(line(page, "camera-2")).to_contain_text("60 since")
    fits(page)


def test_a_model_is_downloaded_and_uploaded_again_and_a_file_that_is_none_refused(
    page: Page, house: httpx.Client, digits: str, collector: Collector, tmp_path: Path
) -> None:
    opened(page, digits)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"{digits}-1.tar"
    page.goto("/#/models")
    page.get_by_text("Upload a model").click()
    axe(page)
    page.get_by_label("File").set_input_files(download.value.path())
    page.get_by_role("textbox", name="Name").fill("moved")
    upload, progress = page.get_by_role("button", name="Upload"), page.get_by_role("progressbar", name="Upload")
    slow_uploads(page, answer_ms=1000)
    upload.click()
    expect(progress).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Cancel").click()
    expect(progress).to_have_count(0)
    assert house.get("/v1/models/moved").status_code == 404
    upload.click()
    expect(page.get_by_text("Verifying the weights")).to_be_visible()
    page.get_by_role("link", name="moved:1").click()
    expect(page.get_by_role("heading", level=1, name="moved")).to_be_visible()
    sums = [house.get(f"/v1/models/{name}:1").json()["manifest"]["log_dets"]["total"] for name in (digits, "moved")]
    assert sums[0] == sums[1]

    page.goto("/#/models")
    page.get_by_text("Upload a model").click()
    wrong = tmp_path / "model.tar"
    wrong.write_bytes(b"no tar" * 1000)
    page.get_by_label("File").set_input_files(wrong)
    page.get_by_role("textbox", name="Name").fill("wrong")
    with collector.expected("status of 4"):
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Upload")).to_be_visible()
