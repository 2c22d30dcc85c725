"""The Train page in a real browser: its form, images uploaded and named, a family proposed, trainings followed."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from snf_models.locations.location import Location
from snf_models.registry.registry import Registry
from tests.browser.collector import Collector
from tests.browser.helpers import SHIPPED, axe, drop, fits, in_every_look, slow_uploads, toast
from tests.end_to_end.support.service import await_job
from tests.support.paths import DIGITS
from tests.support.referenced import digits as few_digits
from tests.support.referenced import put
from tests.support.trained import barely_trained

pytestmark = pytest.mark.timeout(180)

TRAINED_MS = 120_000


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """All digits in two folders, and among them a file that is no image."""
    path = tmp_path / "Line 7, good.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index, digit in enumerate(DIGITS):
            archive.write(digit, f"lot-{1 + index % 2}/{digit.name}")
        archive.writestr("lot-1/notes.txt", bytes(500_000))  # no image, and some seconds to send
    return path


def opened(page: Page) -> None:
    page.goto("/#/train")
    expect(page.get_by_role("radio", name="mnist-mini")).to_be_enabled()
    expect(page.get_by_role("group", name="What to find")).to_be_visible()


def filled(page: Page, model: str, steps: int) -> None:
    """Describes a short training on the built-in digits and waits for its estimate."""
    opened(page)
    page.get_by_role("radio", name="mnist-mini").check()
    page.get_by_text("tiny", exact=True).click()
    page.get_by_label("Name of the model").fill(model)
    page.get_by_text("steps", exact=True).click()
    page.get_by_label("Steps", exact=True).fill(str(steps))
    estimate = page.get_by_role("region", name="Estimate")
    expect(estimate).to_contain_text(re.compile("unknown until it runs|[0-9]:[0-9]{2}", re.IGNORECASE))
    expect(estimate).to_contain_text("train-cpu")


def test_a_family_comes_first_then_its_size(page: Page) -> None:
    opened(page)
    family, size = (page.get_by_role("group", name=name) for name in ("What to find", "Size"))
    expect(family.get_by_role("radio", name="image quality: pixels")).to_be_checked()
    expect(size.get_by_role("radio")).to_have_count(3)
    expect(size.get_by_role("radio", name="small")).to_be_checked()
    preset = page.get_by_label("Preset", exact=True)
    expect(preset).to_be_hidden()
    family.get_by_role("radio", name="image quality: pixels").press("ArrowLeft")
    expect(family.get_by_role("radio", name="defects of parts: features")).to_be_checked()
    expect(size).to_have_count(0)
    expect(page.get_by_text("snf-features, for defects of parts")).to_be_visible()
    page.get_by_text("Presets of the paper and for comparison").click()
    preset.select_option("snf-conv-9l")
    expect(family.get_by_role("radio", checked=True)).to_have_count(0)
    expect(preset).to_be_visible()


def test_nothing_is_chosen_before_the_user_chooses(page: Page) -> None:
    opened(page)
    expect(page.get_by_role("radio", name="mnist-mini")).not_to_be_checked()
    start = page.get_by_role("button", name="Start training")
    expect(start).to_be_disabled()
    expect(page.get_by_text("Choose a dataset first.")).to_have_count(2)  # for a training and for a comparison
    expect(page.get_by_role("button", name="Which family?")).to_be_disabled()
    expect(page.get_by_label("Name of the model")).to_have_attribute("aria-invalid", "false")
    page.get_by_role("radio", name="mnist-mini").check()
    expect(start).to_be_enabled()


@in_every_look
def test_an_upload_and_its_report(
    page: Page, house: httpx.Client, digits: Path, screenshot: Callable[[Page, str], None]
) -> None:
    opened(page)
    slow_uploads(page)
    page.get_by_label("choose files").set_input_files(digits)
    taken = {one["name"] for one in house.get("/v1/datasets").json()["datasets"]}
    name = page.get_by_label("Name of the dataset")
    expect(name).to_have_value(re.compile(r"^line-7-good(-\d)?$"))
    assert name.input_value() not in taken
    name.fill("Not a name")
    expect(page.get_by_role("button", name="Upload", exact=True)).to_be_disabled()
    chosen = f"digits-{len(taken)}"
    name.fill(chosen)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("progressbar", name="Upload")).to_be_visible()
    expect(page.get_by_text(re.compile(r"of \d+ kB, .*/s, \d+:\d\d left"))).to_be_visible()
    report = page.get_by_role("region", name=f"Dataset {chosen}")
    expect(report.get_by_alt_text(f"Contact sheet of {chosen}")).to_be_visible()
    expect(report).to_contain_text(f"{len(DIGITS)} PNG")
    expect(report).to_contain_text("lot-1 ")
    expect(report).to_contain_text("1 file was skipped")
    expect(page.get_by_role("radio", name=chosen)).to_be_checked()
    expect(page.get_by_label("Name of the model")).to_have_value(chosen)
    fits(page)
    screenshot(page, "train")
    report.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name=f"Delete {chosen}?").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("radio", name=chosen)).to_have_count(0)
    assert house.get(f"/v1/datasets/{chosen}").status_code == 404


def test_near_duplicates_are_named_and_left_out(page: Page, house: httpx.Client, tmp_path: Path) -> None:
    lot = tmp_path / "twins"
    lot.mkdir()
    for number, digit in enumerate(DIGITS[:20]):
        (lot / f"{number}.png").write_bytes(digit.read_bytes())
        with Image.open(digit) as image:
            image.convert("L").point(lambda grey: min(grey, 250) + 5).save(lot / f"{number}-again.png")
    opened(page)
    page.get_by_label("choose a folder").set_input_files(lot)
    page.get_by_role("button", name="Upload", exact=True).click()
    report = page.get_by_role("region", name="Dataset twins")
    near = report.get_by_role("group").filter(has_text="pairs")
    expect(near).to_be_visible()
    said = house.get("/v1/datasets/twins").json()["report"]
    figure = f"{said['near_duplicates']['images']} images in {said['near_duplicates']['sets']} pairs"
    near.get_by_text(figure).click()
    expect(near).to_contain_text(" ≈ ".join(said["near_duplicates"]["examples"][0]))
    expect(report).to_contain_text(f"near duplicates: {figure}")
    report.get_by_role("button", name="Upload again without near duplicates").press("Enter")
    expect(page.get_by_label("Name of the dataset")).to_be_focused()
    expect(page.get_by_label("Name of the dataset")).to_have_value("twins-2")
    expect(page.get_by_role("checkbox", name="leave out near duplicates")).to_be_checked()
    fits(page)
    page.get_by_role("button", name="Upload", exact=True).click()
    left = page.get_by_role("region", name="Dataset twins-2")
    expect(left).to_contain_text("near duplicatesnone")
    expect(left.get_by_role("row").filter(has_text="it is a near duplicate of twins/").first).to_be_visible()
    assert house.get("/v1/datasets/twins-2").json()["images"] <= 20


def test_an_upload_is_cancelled(page: Page, house: httpx.Client, digits: Path) -> None:
    opened(page)
    slow_uploads(page)
    drop(page.get_by_role("main"), digits)
    page.get_by_label("Name of the dataset").fill("given-up")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Upload", exact=True)).to_be_visible()
    assert house.get("/v1/datasets/given-up").status_code == 404


def test_refusals_are_shown_where_they_belong(page: Page, collector: Collector, house: httpx.Client) -> None:
    files = [("file", (one.name, one.read_bytes())) for one in DIGITS]
    assert house.post("/v1/datasets", data={"name": "taken"}, files=files).status_code == 201
    opened(page)
    drop(page.get_by_role("main"), *DIGITS)
    page.get_by_label("Name of the dataset").fill("taken")
    expect(page.get_by_text("This name is in use")).to_be_visible()
    with collector.expected("status of 409"):
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("taken")
    page.get_by_role("radio", name="mnist-mini").check()
    page.get_by_text("More parameters").click()
    rate = page.get_by_label("learning rate", exact=True)
    with collector.expected("status of 422"):
        rate.fill("5")
        expect(page.get_by_text("expected a value less than or equal to 1").first).to_be_visible()
    expect(rate).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.get_by_role("region", name="Estimate")).to_contain_text("memory")
    # The job store goes away and comes back.
    down = '{"type": "jobs-unavailable", "title": "The job store does not answer", "detail": "ask again later"}'
    with collector.expected("status of 503"):
        page.route("**/v1/jobs?*", lambda route: route.fulfill(status=503, body=down))
        expect(page.get_by_text("The job store does not answer")).to_be_visible()
    page.unroute("**/v1/jobs?*")
    expect(page.get_by_text("The job store does not answer")).to_be_hidden()
    collector.found = [one for one in collector.found if "status of 503" not in one]  # asked again meanwhile


@pytest.fixture(scope="module")
def followed(house: httpx.Client, home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A short training of a second version of the model `followed`; it may have ended when its page is opened."""
    Registry(home / "registry").publish(barely_trained(tmp_path_factory), "followed")
    architecture = {"family": "glow", "levels": 1, "steps": 1, "hidden": 4}
    # Two validations, and so two previews: at steps 160 and 320.
    parameters = {"max_steps": 320, "batch_size": 16, "validation_images": 20, "validations": 2, "image_size": 8}
    training = {"type": "train", "dataset": "mnist-mini", "model": "followed", "architecture": architecture}
    answer = house.post("/v1/jobs", json=training | {"parameters": parameters})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@in_every_look
def test_a_training_is_followed_to_its_model(
    page: Page, house: httpx.Client, followed: str, screenshot: Callable[[Page, str], None]
) -> None:
    page.goto(f"/#/train/{followed}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Training of followed")
    curve = page.get_by_role("img", name=re.compile("Bits per dimension over steps: training [0-9.]+ at first"))
    expect(curve.locator("canvas")).to_be_visible(timeout=TRAINED_MS)
    expect(page.get_by_role("img", name="Reconstruction error over steps").locator("canvas")).to_be_visible()
    expect(page.get_by_alt_text("Samples at step 320")).to_be_visible(timeout=TRAINED_MS)
    ready = page.get_by_role("region", name="The model followed:2 is ready")
    expect(ready).to_be_visible(timeout=TRAINED_MS)
    record = house.get(f"/v1/jobs/{followed}").json()
    assert record["status"] == "succeeded"
    expect(ready).to_contain_text(f"{record['metrics']['evaluation']['test_bits_per_dim']:.4f} bits/dim")
    expect(page.get_by_role("log")).to_contain_text("followed:2 is registered")
    slider = page.get_by_role("slider", name="Step of the samples")
    slider.press("Home")
    expect(page.get_by_alt_text("Samples at step 160")).to_be_visible()
    expect(ready.get_by_role("link", name="followed:2")).to_have_attribute("href", "#/models/followed:2")
    fits(page)
    screenshot(page, "job")


def test_a_spike_is_said_and_does_not_flatten_the_curve(page: Page, house: httpx.Client, followed: str) -> None:
    await_job(house, followed, "succeeded")
    bits = {step: 1.2 + 0.3 * 0.999**step for step in range(1, 1000, 4)} | {13: 154.0, 477: 60.0, 481: -40.0}
    points = [{"attempt": 1, "step": step, "bits_per_dim": value} for step, value in sorted(bits.items())]
    stored = {"points": points, "validations": [{"attempt": 1, "step": 998, "bits_per_dim": 1.3}]}
    page.route("**/metrics?*", lambda route: route.fulfill(json=stored))
    page.goto(f"/#/train/{followed}")
    said = page.get_by_text(re.compile(r"^2 values above [\d.]+ are outside, the highest 154 at step 13\."))
    expect(said).to_contain_text("1 value below 1.3 is outside: -40 at step 481.")
    top = "document.querySelector('snf-lines').plot.scales.y.max"
    assert page.evaluate(top) < 10
    axe(page)
    page.get_by_role("button", name="whole range").press("Enter")
    expect(page.get_by_text("The whole range is shown.")).to_be_visible()
    assert page.evaluate(top) > 154
    page.get_by_role("button", name="leave out what is far outside").click()
    expect(said).to_be_visible()


def test_a_finished_training_waits_for_its_live_version(page: Page, house: httpx.Client, followed: str) -> None:
    """Its links depend on it."""
    await_job(house, followed, "succeeded")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/models", hold)
    with page.expect_request("**/v1/models"):
        page.goto(f"/#/train/{followed}")
    expect(page.get_by_text("Loading job ...")).to_be_visible()
    held[0].continue_()
    expect(page.get_by_role("region", name=re.compile("The model followed:. is ready"))).to_be_visible()


def test_a_second_version_is_made_live(page: Page, house: httpx.Client, followed: str) -> None:
    page.goto(f"/#/train/{followed}")
    ready = page.get_by_role("region", name="The model followed:2 is ready")
    expect(ready).to_contain_text("followed uses version 1", timeout=TRAINED_MS)
    ready.get_by_role("button", name="Make it live").click()
    toast(page, "followed is now version 2")
    expect(ready.get_by_role("button", name="Make it live")).to_have_count(0)
    assert house.get("/v1/models/followed").json()["version"] == 2
    ready.get_by_role("link", name="Draw samples").click()
    expect(page).to_have_url(re.compile("#/samples/followed$"))
    page.go_back()
    # Until the aliases are there again, the links are those of the version.
    expect(ready.get_by_role("link", name="Draw samples")).to_have_attribute("href", "#/samples/followed")
    ready.get_by_role("link", name="Score images").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("followed")


def test_a_training_is_paused_resumed_cancelled_and_tried_again(
    page: Page, collector: Collector, house: httpx.Client
) -> None:
    filled(page, "halted", 50_000)
    page.get_by_text("More parameters").click()
    page.get_by_label("image size", exact=True).fill("8")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile("#/train/.+"))
    job = page.url.rpartition("/")[2]
    assert house.get(f"/v1/jobs/{job}").json()["parameters"]["image_size"] in (8, [8, 8])
    badge = page.get_by_role("heading", level=1)
    expect(badge).to_contain_text("Training of halted")
    expect(badge).to_contain_text("running", timeout=TRAINED_MS)
    expect(page.get_by_role("img", name="Bits per dimension")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(badge).to_contain_text("paused", timeout=TRAINED_MS)
    step = house.get(f"/v1/jobs/{job}").json()["checkpoint_step"]
    expect(page.get_by_text(f"step {step:,}", exact=True)).to_be_visible()

    events = re.compile(r"/v1/jobs/\w+/events")

    def unavailable(route: Route) -> None:
        route.fulfill(status=503, body='{"title": "Draining", "detail": "come back"}')

    page.route(events, unavailable)
    with collector.expected("status of 503.*/events"):
        page.reload()
        expect(page.get_by_text("The connection to the service is lost")).to_be_visible()
    page.unroute(events)
    expect(page.get_by_text("The connection to the service is lost")).to_be_hidden()
    collector.found = [one for one in collector.found if "/events" not in one]  # asked again meanwhile
    page.get_by_role("button", name="Resume").click()
    expect(badge).to_contain_text("running", timeout=TRAINED_MS)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog", name="Cancel this job?").get_by_role("button", name="Cancel job").click()
    expect(badge).to_contain_text("cancelled", timeout=TRAINED_MS)

    page.get_by_role("button", name="Try again").click()
    toast(page, "A new job continues from the checkpoint")
    page.wait_for_url(re.compile(f"#/train/(?!{job})"))
    another = page.url.rpartition("/")[2]
    assert house.get(f"/v1/jobs/{another}").json()["retry_of"] == job
    expect(badge).to_contain_text("running", timeout=TRAINED_MS)
    assert house.post(f"/v1/jobs/{another}/cancel").status_code == 202
    expect(badge).to_contain_text("cancelled", timeout=TRAINED_MS)
    page.get_by_role("link", name="All jobs").click()
    expect(page.get_by_role("link", name="train halted, cancelled")).to_have_count(2)

    page.goto(f"/#/train/{another}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete this job?").get_by_role("button", name="Cancel").click()
    expect(badge).to_contain_text("cancelled")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete this job?").get_by_role("button", name="Delete job").click()
    toast(page, "The job is deleted")
    expect(page.get_by_role("link", name="train halted, cancelled")).to_have_count(1)
    assert house.get(f"/v1/jobs/{another}").status_code == 404


def test_from_images_to_a_verdict(page: Page, house: httpx.Client) -> None:
    """The whole way that a newcomer goes: a training of some seconds, live to its model, and an image scored by it."""
    opened(page)
    page.get_by_role("radio", name="mnist-mini").check()
    page.get_by_label("Name of the model").fill("newcomer")
    page.get_by_label("Minutes", exact=True).fill("0.1")
    expect(page.get_by_role("region", name="Estimate")).to_contain_text(re.compile(r"\d:\d\d"))
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("running", timeout=TRAINED_MS)
    expect(page.get_by_role("img", name="Bits per dimension").locator("canvas")).to_be_visible(timeout=TRAINED_MS)
    ready = page.get_by_role("region", name="The model newcomer:1 is ready")
    expect(ready).to_be_visible(timeout=TRAINED_MS)
    expect(page.get_by_role("img", name="Samples at step")).to_be_visible()
    ready.get_by_role("link", name="Score images").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("newcomer")
    drop(page.get_by_role("main"), DIGITS[0])
    files = {"images": (DIGITS[0].name, DIGITS[0].read_bytes())}
    said = house.post("/v1/models/newcomer/score", files=files).json()["results"][0]
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name=DIGITS[0].name, exact=True))
    expect(row).to_contain_text(f"{said['bits_per_dim']:.4f}")


def test_a_refused_start_makes_no_job_and_asking_again_makes_one(
    page: Page, collector: Collector, house: httpx.Client
) -> None:
    filled(page, "once", 25)
    keys: list[str] = []

    def lost(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.fetch()  # it arrives, but its answer does not
        route.fulfill(status=503, body='{"title": "Gone", "detail": "no answer came"}')

    page.route("**/v1/jobs", lost)
    with collector.expected("status of 503"):
        page.get_by_role("button", name="Start training").click()
        expect(page.get_by_role("alert")).to_contain_text("no answer came")
    page.unroute("**/v1/jobs")
    with page.expect_request("**/v1/jobs") as again:
        page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile("#/train/.+"))
    assert again.value.headers["idempotency-key"] == keys[0]
    made = [one for one in house.get("/v1/jobs").json()["jobs"] if one["model"] == "once"]
    assert len(made) == 1
    house.post(f"/v1/jobs/{made[0]['id']}/cancel").raise_for_status()


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


def test_images_are_referred_to_and_listed(page: Page, collector: Collector, house: httpx.Client, shared: Path) -> None:
    location = Location((shared / "lot 7").as_uri())
    put(location, "tar", few_digits())
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


PARAMETERS = {"image_size": 27, "feature_side": 32, "shapes": ["missing-part"]}
"""A size that no pixel flow takes: a comparison of seconds."""
POLL_MS = 2000
"""Time between two questions of the page; its clock runs ahead, for a comparison works until it is cancelled."""


@pytest.fixture(scope="module")
def compared(house: httpx.Client, home: Path, backbones: Path) -> str:
    """The id of a finished comparison on the built-in digits."""
    shutil.copytree(backbones, home / "backbones", dirs_exist_ok=True)
    request = {"type": "recommend", "dataset": "mnist-mini", "parameters": PARAMETERS}
    answer = house.post("/v1/jobs", json=request)
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    while (state := house.get(f"/v1/jobs/{job}").json())["status"] in ("queued", "starting", "running"):
        time.sleep(0.3)
    assert state["status"] == "succeeded", state["error"]
    return job


@in_every_look
def test_the_proposal_fills_the_form(page: Page, compared: str, screenshot: Callable[[Page, str], None]) -> None:
    page.goto("/#/train")
    asking = page.get_by_role("group", name="Which family")
    expect(asking.get_by_role("button", name="Which family?")).to_be_disabled()
    page.get_by_role("radio", name="mnist-mini").check()
    expect(asking).to_contain_text("Proposal: features")
    expect(asking.get_by_role("listitem")).to_have_text(["the feature model is the only family that could be compared"])
    expect(asking).to_contain_text("pixels: snf-glow-small halves both sides")
    expect(asking.get_by_role("row").filter(has_text="features").first).to_contain_text("nats/value")
    asking.get_by_text("Detection limits").click()
    expect(asking.get_by_role("rowheader", name="missing part")).to_be_visible()
    screenshot(page, "recommendation")
    fits(page)
    asking.get_by_role("button", name="Use snf-features").click()
    expect(page.get_by_role("radio", name="defects of parts: features")).to_be_checked()
    page.get_by_text("More parameters").click()
    expect(page.get_by_label("image size", exact=True)).to_have_value("[27,27]")
    expect(page.get_by_role("region", name="Estimate").get_by_role("alert")).to_have_count(0)


def test_a_comparison_is_started_and_followed(
    page: Page, collector: Collector, house: httpx.Client, compared: str
) -> None:
    page.clock.install()
    page.goto("/#/train")
    page.get_by_role("radio", name="mnist-mini").check()
    asking = page.get_by_role("group", name="Which family")
    asking.get_by_role("button", name="Compare again").click()
    follow = asking.get_by_role("link", name="follow the job")
    expect(follow).to_be_visible()
    expect(asking.get_by_role("button", name="Which family?")).to_be_disabled()
    follow.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Comparison of families")
    job = page.url.rpartition("/")[2]
    # A moment without an answer is told, and forgotten with the next answer.
    page.route(f"**/v1/jobs/{job}", lambda route: route.fulfill(status=503, json={"detail": "a moment"}))
    with collector.expected("status of 503"):
        page.go_back()
        expect(asking.get_by_role("alert")).to_contain_text("a moment")
    page.unroute(f"**/v1/jobs/{job}")
    page.clock.run_for(POLL_MS)
    expect(asking.get_by_role("alert")).to_have_count(0)
    collector.found = [one for one in collector.found if "status of 503" not in one]  # asked again meanwhile
    assert house.get(f"/v1/jobs/{job}").json()["parameters"] == {"minutes": 10}
    assert house.post(f"/v1/jobs/{job}/cancel").status_code == 202
    page.goto(f"/#/train/{compared}")
    expect(page.get_by_role("heading", name="Proposed family: features")).to_be_visible()
