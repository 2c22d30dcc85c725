"""The training form in a real browser: what it shows is what it sends."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.model_pages import SHIPPED

pytestmark = pytest.mark.timeout(120)


def sent(page: Page) -> dict[str, Any]:
    """Start the training that the form describes, and return the request, which is never answered."""
    with page.expect_request("**/v1/jobs") as request:
        page.get_by_role("button", name="Start training").click()
    body: dict[str, Any] = request.value.post_data_json
    return body


@pytest.fixture
def form(page: Page) -> Page:
    """The page with the built-in digits chosen."""
    page.route("**/v1/jobs", lambda _route: None)
    page.goto("/#/train")
    page.get_by_role("radio", name="mnist-mini").check()
    expect(page.get_by_role("button", name="Start training")).to_be_enabled()
    return page


def test_a_new_model_is_not_promoted_by_a_box_that_is_hidden(form: Page) -> None:
    """The box makes a version live even if it is unfit; it is there for models that exist."""
    name = form.get_by_label("Name of the model")
    name.fill(SHIPPED)
    box = form.get_by_role("checkbox", name="Make the new version live")
    box.check()
    name.fill("new-name")
    expect(box).to_have_count(0)
    assert sent(form)["promote"] is False


def test_a_number_that_cannot_be_read_is_not_sent_as_its_default(form: Page) -> None:
    started: list[str] = []
    form.on("request", lambda request: started.append(request.url) if request.url.endswith("/v1/jobs") else None)
    more = form.get_by_text("More parameters")
    more.click()
    rate = form.get_by_label("learning rate", exact=True)
    rate.press_sequentially("1e-")
    more.click()
    expect(rate).to_be_hidden()
    form.get_by_role("button", name="Start training").click()
    expect(rate).to_be_focused()
    assert not started
    rate.press_sequentially("4")
    assert sent(form)["parameters"]["learning_rate"] == 1e-4
