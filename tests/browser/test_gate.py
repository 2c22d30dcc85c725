"""An unfit model in the console: its reason in red, and never selected by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from snf_models.registry.registry import Registry
from tests.browser.helpers import axe
from tests.support.trained import unfit_artifact

pytestmark = pytest.mark.timeout(180)

TRAINED_MS = 120_000


@pytest.fixture
def version(house: httpx.Client, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The only version of the model ``hasty``, which is unfit and exists while the test runs."""
    yield Registry(home / "registry").publish(unfit_artifact(tmp_path_factory), "hasty").version
    house.delete("/v1/models/hasty").raise_for_status()


def test_its_reason_is_shown_and_it_is_used_only_where_it_is_chosen(
    version: int, page: Page, house: httpx.Client
) -> None:
    """The page is closed before the model is deleted, for which it would ask."""
    list_and_page_show_the_reason_and_it_is_scored_by_number(page, version)
    it_is_offered_for_scoring_but_not_selected(page, version)
    it_is_made_live_and_taken_back(page, version)
    assert house.get("/v1/models/hasty").status_code == 409


def list_and_page_show_the_reason_and_it_is_scored_by_number(page: Page, version: int) -> None:
    page.goto("/#/models")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="hasty"))
    expect(row).to_contain_text("unfit")
    expect(page.get_by_text(f"no version of hasty is live: hasty:{version} is unfit, hardly trained")).to_be_visible()
    axe(page)
    page.get_by_role("link", name="hasty", exact=True).click()
    expect(page.get_by_text("hasty has no live version: no version of hasty is live")).to_be_visible()
    axe(page)
    with page.expect_response("**/reference*"):
        page.get_by_role("button", name="Score images").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(f"hasty:{version}")
    expect(page.get_by_text("This model is unfit: hardly trained")).to_be_visible()


def it_is_offered_for_scoring_but_not_selected(page: Page, version: int) -> None:
    page.reload()
    choice = page.get_by_label("Model", exact=True)
    expect(choice).to_have_value("mnist-snf-glow")
    expect(choice.locator("option", has_text=re.compile(rf"^hasty:{version} \(.*, unfit\)$"))).to_have_count(1)
    # Where there is no other model, none is selected.
    page.route(
        "**/v1/models",
        lambda route: route.fulfill(
            json={"models": [one for one in route.fetch().json()["models"] if one["name"] == "hasty"]}
        ),
    )
    page.reload()
    expect(page.get_by_text("All models are unfit, so none is selected.")).to_be_visible()
    expect(page.get_by_text("Drop images")).to_have_count(0)
    choice.select_option(f"hasty:{version}")
    expect(page.get_by_text("This model is unfit: hardly trained")).to_be_visible()
    expect(page.get_by_text("Drop images or folders here")).to_be_visible()
    page.unroute("**/v1/models")


def it_is_made_live_and_taken_back(page: Page, version: int) -> None:
    page.goto("/#/models/hasty/versions")
    page.get_by_role("button", name="Make live").click()
    expect(page.locator("#moved")).to_contain_text(f"live is now version {version}")
    expect(page.locator("#moved")).to_contain_text("This model is unfit: hardly trained")
    expect(page.get_by_text("has no live version")).to_have_count(0)
    page.get_by_role("button", name="Remove the alias live").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("hasty has no live version")).to_be_visible()


def test_a_training_of_one_step_says_on_its_page_why_its_model_is_not_live(page: Page, house: httpx.Client) -> None:
    architecture = {"family": "glow", "levels": 1, "steps": 1, "hidden": 4}
    request = {"type": "train", "dataset": "mnist-mini", "model": "rushed", "architecture": architecture}
    parameters = {"max_steps": 1, "validation_images": 20, "image_size": 8}
    job = house.post("/v1/jobs", json=request | {"parameters": parameters}).json()["id"]
    page.goto(f"/#/train/{job}")
    outcome = page.get_by_role("region", name="The model rushed:1 is unfit")
    expect(outcome).to_be_visible(timeout=TRAINED_MS)
    expect(outcome).to_contain_text("This model is unfit: hardly trained")
    expect(outcome).to_contain_text("rushed has no live version")
    expect(page.get_by_role("log")).to_contain_text("rushed:1 is published, not live. This model is unfit")
    outcome.get_by_role("button", name="Make it live").click()
    expect(outcome.get_by_text(re.compile("has no live version"))).to_have_count(0)
    house.delete("/v1/models/rushed").raise_for_status()
