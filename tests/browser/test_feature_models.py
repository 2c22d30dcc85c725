"""Models of features in a real browser: fitted on the Train page, used on the Score page, described on their own."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from snf_models.registry.registry import Registry
from snf_runtime.images.codec import encode_png
from snf_runtime.images.preprocessing import Fit
from tests.browser.helpers import LOOKS, drop, fact, fits, opened
from tests.support.fits import FITS, SIZES, covered, stained_file, with_fit
from tests.support.paths import DIGITS
from tests.support.tiled import mosaic, tiled_artifact, with_fault
from tests.support.trained import feature_artifact, hybrid_artifact

pytestmark = pytest.mark.timeout(180)

FITTED_MS = 120_000


@pytest.fixture(scope="module", autouse=True)
def published(house: httpx.Client, home: Path, backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model of features, one of pixels and features, and their backbone."""
    shutil.copytree(backbones, home / "backbones", dirs_exist_ok=True)
    Registry(home / "registry").publish(feature_artifact(tmp_path_factory), "parts", promote=True)
    Registry(home / "registry").publish(hybrid_artifact(tmp_path_factory), "both", promote=True)
    for fit in FITS:
        Registry(home / "registry").publish(
            with_fit(feature_artifact(tmp_path_factory), fit, tmp_path_factory.mktemp("fits") / fit),
            f"with-{fit}",
            promote=True,
        )
    for name in ("parts", "both", *(f"with-{fit}" for fit in FITS)):
        assert house.get(f"/v1/models/{name}").status_code == 200


def scored(page: Page, model: str) -> Locator:
    """Score a digit on the Score page, and return the cells of its row once it is judged."""
    page.goto("/")
    page.get_by_label("Model", exact=True).select_option(model)
    drop(page.get_by_role("main"), DIGITS[0])
    expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text("1 image scored")
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=DIGITS[0].name)).get_by_role("cell")


@pytest.mark.parametrize(("model", "look"), [("parts", LOOKS[0]), ("parts", LOOKS[1]), ("both", LOOKS[1])], ids=str)
def test_an_image_is_scored_and_explained(
    page: Page, house: httpx.Client, model: str, screenshot: Callable[[Page, str], None]
) -> None:
    files = {"images": (DIGITS[0].name, DIGITS[0].read_bytes())}
    said = house.post(f"/v1/models/{model}/score", files=files).json()["results"][0]
    cells = scored(page, model)
    expect(cells.nth(2)).to_have_text(f"{said['log_likelihood']:.2f}")
    # A density of features has no bits/dim, and so no column of them.
    bits = page.locator("td[data-label='bits/dim']")
    if model == "parts":
        assert said["bits_per_dim"] is None
        expect(bits).to_have_count(0)
    else:
        expect(bits).to_have_text(f"{said['bits_per_dim']:.4f}")
    page.get_by_role("button", name=DIGITS[0].name).click()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()
    fits(page)
    screenshot(page, f"score-{model}")


@pytest.mark.parametrize(("model", "look"), [("parts", LOOKS[0]), ("both", LOOKS[1])], ids=str)
def test_a_model_says_what_its_backbone_is(page: Page, model: str, screenshot: Callable[[Page, str], None]) -> None:
    opened(page, model)
    backbone = fact(page, "backbone")
    expect(backbone).to_contain_text("efficientnet-lite0")
    expect(backbone).to_contain_text("images enlarged to 64×64, 152 features at 4×4 places")
    fits(page)
    screenshot(page, f"model-{model}")


def test_a_fault_of_an_image_of_any_size_is_framed(
    page: Page, house: httpx.Client, home: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Registry(home / "registry").publish(tiled_artifact(tmp_path_factory)[0], "tiles", promote=True)
    assert house.get("/v1/models/tiles").status_code == 200
    file = tmp_path / "large.png"
    image = with_fault(mosaic(7, 4, 5), 60, 90)
    file.write_bytes(encode_png(image))
    page.goto("/")
    page.get_by_label("Model", exact=True).select_option("tiles")
    expect(page.get_by_text("accepts images (grey, any size)")).to_be_visible()
    drop(page.get_by_role("main"), file)
    page.get_by_role("button", name="large.png").click()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()
    frame = page.locator(".framed i").first
    _, height, width = image.shape
    left, top = (
        float(frame.evaluate(f"box => parseFloat(box.style.{side})")) * length / 100
        for side, length in (("left", width), ("top", height))
    )
    assert 66 <= left < 106
    assert 36 <= top < 76
    picture = page.locator(".framed > img").first.bounding_box()
    assert picture is not None
    assert picture["width"] / picture["height"] == pytest.approx(width / height, rel=0.02)
    fits(page)
    page.goto("/#/models/tiles/overview")
    expect(page.get_by_text("kept, scored tile by tile")).to_be_visible()


@pytest.mark.parametrize(("fit", "look"), [("stretch", LOOKS[0]), ("crop", LOOKS[1])], ids=str)
def test_a_box_is_drawn_where_the_stain_is(
    page: Page, house: httpx.Client, fit: Fit, tmp_path: Path, screenshot: Callable[[Page, str], None]
) -> None:
    data, stain = stained_file(fit)
    file = tmp_path / f"stain-{fit}.png"
    file.write_bytes(data)
    page.goto("/")
    page.get_by_label("Model", exact=True).select_option(f"with-{fit}")
    drop(page.get_by_role("main"), file)
    expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text("1 image scored")
    page.get_by_role("button", name=file.name).click()
    expect(page.get_by_alt_text("Heat map")).to_be_visible()
    expect(page.get_by_text(re.compile(r"Outlined in yellow: \d+ region"))).to_be_visible()
    # From the screen back to pixels of the file, whose whole picture is shown.
    picture = page.locator(".framed > img").first.bounding_box()
    assert picture is not None
    width, height = SIZES[fit]
    assert picture["width"] / picture["height"] == pytest.approx(width / height, rel=0.02)
    scale = width / picture["width"]
    boxes = [frame.bounding_box() for frame in page.locator(".framed > i:not(.seen)").all()]
    drawn = [
        (
            round((box["x"] - picture["x"]) * scale),
            round((box["y"] - picture["y"]) * scale),
            round((box["x"] - picture["x"] + box["width"]) * scale),
            round((box["y"] - picture["y"] + box["height"]) * scale),
        )
        for box in boxes
        if box is not None
    ]
    assert max(covered(box, stain) for box in drawn) >= 0.9, (drawn, stain)
    query = {"explain": True}
    answer = house.post(f"/v1/models/with-{fit}/score", params=query, files={"images": (file.name, data)}).json()
    for region in answer["results"][0]["heat_map"]["regions"]:
        assert any(max(abs(a - b) for a, b in zip(box, region["box"], strict=True)) <= 2 for box in drawn)
    expect(page.locator(".framed > .seen")).to_have_count(1 if fit == "crop" else 0)
    fits(page)
    screenshot(page, f"regions-{fit}")


def test_a_model_of_features_is_fitted_and_used(page: Page, house: httpx.Client) -> None:
    page.goto("/#/train")
    page.get_by_role("radio", name="mnist-mini").check()
    page.get_by_text("defects of parts: features").click()
    page.get_by_label("Name of the model").fill("fitted-here")
    page.get_by_text("More parameters").click()
    page.get_by_label("feature side", exact=True).fill("64")
    expect(page.get_by_role("region", name="Estimate")).to_contain_text("train-cpu")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile("#/train/.+"))
    expect(page.get_by_role("link", name="Score images")).to_be_visible(timeout=FITTED_MS)
    scored(page, "fitted-here")
    expect(page.locator("td[data-label='bits/dim']")).to_have_count(0)
    assert house.get("/v1/models/fitted-here").json()["kind"] == "feature_density"
