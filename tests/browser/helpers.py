"""What a person does and has that Playwright has no call for: files dropped and pasted, notices, a slow line."""

import base64
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

SLOW_BYTES_S = 100_000

TRANSFER = """
function transfer(files) {
  const made = new DataTransfer();
  for (const {name, type, data} of files) {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
    made.items.add(new File([bytes], name, {type}));
  }
  return made;
}
"""

# As browsers do it: nothing is dropped on what let `dragover` pass.
DROP = f"""
(target, files) => {{
  {TRANSFER}
  const options = {{bubbles: true, cancelable: true, composed: true, dataTransfer: transfer(files)}};
  const taken = kind => !target.dispatchEvent(new DragEvent(kind, options));
  taken("dragenter");
  return taken("dragover") && taken("drop");
}}
"""

PASTE = f"""
files => {{
  {TRANSFER}
  const options = {{bubbles: true, cancelable: true, composed: true, clipboardData: transfer(files)}};
  document.activeElement.dispatchEvent(new ClipboardEvent("paste", options));
}}
"""


def drop(target: Locator, *paths: Path) -> None:
    """Drops files onto `target`; AssertionError where the page would not take them."""
    assert target.evaluate(DROP, list(map(_file, paths))), f"{target} does not take a drop"


def paste(page: Page, *paths: Path) -> None:
    """Pastes files where the focus is."""
    page.evaluate(PASTE, list(map(_file, paths)))


def slow_uploads(page: Page, answer_ms: int = 0) -> None:
    """Sends so slowly that one sees it, and has each answer that many milliseconds later."""
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": answer_ms, "downloadThroughput": -1, "uploadThroughput": SLOW_BYTES_S},
    )


def toast(page: Page, text: str) -> Locator:
    """Waits for a notice, of role status or alert, that says `text`."""
    notice = page.get_by_role("status").or_(page.get_by_role("alert")).filter(has_text=text).first
    expect(notice).to_be_visible()
    return notice


def score_page(page: Page) -> None:
    """Opens the Score page."""
    page.goto("/")
    expect(page.get_by_text("False-alarm rate: 1 %")).to_be_visible()


def scored(page: Page, count: int) -> None:
    """Waits until so many images have a score."""
    said = page.get_by_label("Scores").get_by_role("status")
    expect(said).to_contain_text(f"{count} image{'' if count == 1 else 's'} scored")


def _file(path: Path) -> dict[str, str]:
    kind, _encoding = mimetypes.guess_type(path.name)
    return {
        "name": path.name,
        "type": kind or "application/octet-stream",
        "data": base64.b64encode(path.read_bytes()).decode(),
    }


RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]

RUN = """
options => axe.run(document, options).then(({passes, violations}) => ({passes: passes.length, violations}))
"""


def axe(page: Page) -> None:
    """Raises AssertionError that names each violation of WCAG 2.1 A, AA and of best practice, with its elements."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    answer = page.evaluate(RUN, {"runOnly": RULES, "resultTypes": ["violations"]})
    assert answer["passes"], "axe found nothing to look at"
    assert not answer["violations"], "\n".join(map(_told, answer["violations"]))


def _told(violation: dict[str, Any]) -> str:
    head = f"{violation['id']} ({violation['impact']}): {violation['help']}, {violation['helpUrl']}"
    nodes = (f"  {node['target']} {node['html']}\n    {node['failureSummary']}" for node in violation["nodes"])
    return "\n".join([head, *nodes])


HEIGHT = 900  # CSS pixels


@dataclass(frozen=True)
class Look:
    """A colour scheme and a window's width in CSS pixels."""

    scheme: Literal["light", "dark"] = "light"
    width: int = 1280

    def __str__(self) -> str:
        return f"{self.scheme}-{self.width}"


# Colours do not depend on the width: two looks have all that four would.
LOOKS = [Look("light", 1280), Look("dark", 390)]

# For a test that takes `page`.
in_every_look = pytest.mark.parametrize("look", LOOKS, ids=str)


SHIPPED = "mnist-snf-glow"


def opened(page: Page, name: str, tab: str = "overview") -> None:
    page.goto(f"/#/models/{name}/{tab}")
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()


def line(where: Page | Locator, name: str | re.Pattern[str]) -> Locator:
    """The row of a table that has this header."""
    page = where if isinstance(where, Page) else where.page
    return where.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))


def fact(page: Page, name: str) -> Locator:
    """The value of a pair of name and value."""
    return page.get_by_role("term").filter(has_text=re.compile(f"^{name}$")).locator("xpath=following-sibling::dd[1]")


def fits(page: Page) -> None:
    """Nothing is wider than the window, and axe finds nothing."""
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0, f"the page is {overflow} pixels wider than its window"
    axe(page)
