"""A real service with worker and broker, and a page of it in a real browser that must stay clean."""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.chromium import PATIENCE_MS, find, running_chromium
from tests.browser.collector import Collector
from tests.browser.helpers import HEIGHT, Look
from tests.end_to_end.support.service import running

FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; skips the test where there is none."""
    return find()


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    with running_chromium(chromium) as started:
        yield started


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `SNF_HOME` of `house`."""
    return tmp_path_factory.mktemp("house")


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose images callers of `house` may refer to."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="package")
def house(chromium: str, home: Path, shared: Path) -> Iterator[httpx.Client]:
    """Everything that `snf up` starts, with the shipped models, in forked processes; not started without a browser."""
    with running("tests.support.forking_house", home=home, engine="torch", allowed_locations=shared.as_uri()) as client:
        yield client


@pytest.fixture
def look() -> Look:
    """What `in_every_look` varies."""
    return Look()


@pytest.fixture
def context(browser: Browser, house: httpx.Client, look: Look) -> Iterator[BrowserContext]:
    """A fresh profile: no cookies, no storage."""
    with browser.new_context(
        base_url=str(house.base_url),
        color_scheme=look.scheme,
        viewport={"width": look.width, "height": HEIGHT},
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
    ) as made:
        made.set_default_timeout(PATIENCE_MS)
        yield made


@pytest.fixture
def collector(context: BrowserContext, house: httpx.Client) -> Collector:
    return Collector(context, str(house.base_url))


@pytest.fixture
def page(
    request: pytest.FixtureRequest, context: BrowserContext, collector: Collector, tmp_path: Path
) -> Iterator[Page]:
    """A blank page; fails at the end on whatever `collector` found; a trace and a screenshot of failures are kept."""
    context.tracing.start(snapshots=True, sources=True)
    page = context.new_page()
    yield page
    trace = tmp_path / "trace.zip"
    context.tracing.stop(path=trace)  # a round trip: what the page has complained of so far arrives before its answer
    if collector.found or FAILED in request.node.stash:
        if not page.is_closed():
            page.screenshot(path=tmp_path / "failure.png")
    else:
        trace.unlink()
    collector.check()


@pytest.fixture
def screenshot(look: Look) -> Callable[[Page, str], None]:
    """`screenshot(page, name)` writes NAME-LOOK.png of the whole page into the folder `SNF_SCREENSHOTS`, if any."""
    folder = os.environ.get("SNF_SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if folder:
            page.evaluate("window.scrollTo(0, 0)")  # what sticks to the top of the window belongs there
            page.screenshot(path=Path(folder) / f"{name}-{look}.png", full_page=True)

    return take


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "page" in item.funcargs:
        item.stash[FAILED] = True
        report.sections.append(("browser", f"trace and screenshot are kept in {item.funcargs['tmp_path']}"))
    return report
