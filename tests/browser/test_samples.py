"""The Samples page in a real browser, by real models."""

import io
import re
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.collector import Collector
from tests.browser.helpers import fits, in_every_look

pytestmark = pytest.mark.timeout(120)

MODEL = "mnist-snf-glow"


def opened(page: Page) -> None:
    page.goto("/#/samples")
    expect(page.get_by_role("figure", name="Exact inverse")).to_be_visible()


def drawn(house: httpx.Client, inverse: str) -> np.ndarray:
    """The samples that the page shows at first, as an array."""
    query = {"n": 16, "temperature": 0.8, "seed": 1, "inverse": inverse, "format": "npy"}
    answer = house.get(f"/v1/models/{MODEL}/samples", params=query)
    return np.load(io.BytesIO(answer.content)).astype(int)


@in_every_look
def test_both_inverses_and_their_difference_as_of_the_arrays(
    page: Page, house: httpx.Client, screenshot: Callable[[Page, str], None]
) -> None:
    largest = int(np.abs(drawn(house, "exact") - drawn(house, "learned")).max())
    opened(page)
    page.get_by_text("both", exact=True).click()
    difference = page.get_by_role("figure", name="Difference")
    expect(difference).to_be_visible()
    expect(page.get_by_role("figure", name="Learned inverse").get_by_role("button")).to_have_count(16)
    expect(difference.locator("img")).to_have_count(16)
    says = f"White is {largest} of 255 grey levels" if largest else "No difference: all pixels are equal."
    expect(difference).to_contain_text(says)
    fits(page)
    screenshot(page, "samples")


def test_samples_are_scored_and_drawn_as_the_controls_say(
    page: Page, house: httpx.Client, collector: Collector
) -> None:
    query = {"n": 16, "temperature": 0.8, "seed": 1, "format": "json"}
    third = house.get(f"/v1/models/{MODEL}/samples", params=query).json()["samples"][2]
    with collector.expected("status of 404"):  # a version that is gone leaves the model
        page.goto(f"/#/samples/{MODEL}:9")
        expect(page.get_by_label("Model", exact=True)).to_have_value(MODEL)
    page.get_by_role("button", name="Sample 3,").click()
    expect(page.get_by_label("Selected sample")).to_contain_text(f"{third['log_likelihood']:.3f} nats")
    page.get_by_role("button", name="Score this sample").click()
    row = page.get_by_role("row", name=f"{MODEL}-seed-1-3.png")
    expect(row).to_contain_text(f"{third['log_likelihood']:.2f}")

    page.get_by_role("link", name="Samples").click()
    page.get_by_text("36", exact=True).click()
    first = page.get_by_role("button", name="Sample 1,").locator("img")
    expect(page.get_by_role("button", name="Sample 36,")).to_be_visible()
    before = first.get_attribute("src")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Seed").press("Enter")
    expect(page.get_by_text("seed 7, temperature 0.80")).to_be_visible()
    assert first.get_attribute("src") != before
    page.get_by_label("Temperature").fill("0")
    expect(page.get_by_text("seed 7, temperature 0.00")).to_be_visible()
    pictures = {one.get_attribute("src") for one in page.get_by_role("button", name="Sample").locator("img").all()}
    assert len(pictures) == 1  # no noise, no difference
    with page.expect_download() as download:
        page.get_by_role("button", name="NumPy array").click()
    assert np.load(download.value.path()).shape == (36, 28, 28)


def test_samples_that_arrive_while_a_seed_is_typed_take_no_digit_away(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(re.compile("/samples[?].*temperature=0.8"), hold)
    with page.expect_request(re.compile("/samples[?]")):
        page.goto(f"/#/samples/{MODEL}")
    seed = page.get_by_label("Seed")
    seed.press("ControlOrMeta+A")
    seed.press_sequentially("2")
    [route] = held
    route.continue_()
    expect(page.get_by_text("seed 1, temperature 0.80")).to_be_visible()
    page.unroute_all()
    seed.press_sequentially("3")
    seed.press("Enter")
    expect(page.get_by_text("seed 23, temperature 0.80")).to_be_visible()
    seed.fill("")
    seed.press("Enter")
    expect(seed).to_have_value("0")
    expect(page.get_by_text("seed 0, temperature 0.80")).to_be_visible()
    page.get_by_role("button", name="Random").click()
    expect(seed).not_to_have_value("0")
