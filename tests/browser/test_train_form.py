"""The training form in a real browser: what it shows is what it sends."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.model_pages import SHIPPED

pytestmark = pytest.mark.timeout(120)


def test_nothing_is_sent_that_the_form_does_not_show(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/v1/jobs", lambda _route: None)
    page.goto("/#/train")
    page.get_by_role("radio", name="mnist-mini").check()
    start = page.get_by_role("button", name="Start training")
    expect(start).to_be_enabled()

    # A number that cannot be read is not sent as its default.
    more = page.get_by_text("More parameters")
    more.click()
    rate = page.get_by_label("learning rate", exact=True)
    rate.press_sequentially("1e-")
    more.click()
    expect(rate).to_be_hidden()
    start.click()
    expect(rate).to_be_focused()
    assert not [url for url in asked if url.endswith("/v1/jobs")]
    rate.press_sequentially("4")

    # A new model is not promoted by a box that is hidden: it makes a version live even if it is unfit.
    name = page.get_by_label("Name of the model")
    name.fill(SHIPPED)
    box = page.get_by_role("checkbox", name="Make the new version live")
    box.check()
    name.fill("new-name")
    expect(box).to_have_count(0)
    with page.expect_request("**/v1/jobs") as request:
        start.click()
    body = request.value.post_data_json
    assert body["parameters"]["learning_rate"] == 1e-4
    assert body["promote"] is False


def test_an_answer_that_arrives_while_a_user_types_takes_no_text_away(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/workers", hold)
    page.goto("/#/train")
    page.get_by_role("radio", name="mnist-mini").check()
    page.get_by_text("More parameters").click()
    side = page.get_by_label("image size", exact=True)
    side.press_sequentially("24, ")
    [route] = held
    with page.expect_response("**/v1/workers"):
        route.continue_()
    side.press_sequentially("28")
    expect(side).to_have_value("24, 28")
    page.route("**/v1/jobs", lambda _route: None)
    with page.expect_request("**/v1/jobs") as request:
        page.get_by_role("button", name="Start training").click()
    assert request.value.post_data_json["parameters"]["image_size"] == [24, 28]
    page.get_by_role("button", name="Reset to defaults").click()
    expect(side).to_have_value("")
    side.fill("  ")
    side.press("Tab")
    expect(side).to_have_value("")
