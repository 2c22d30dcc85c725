"""What a person does and has that Playwright has no call for: files dropped and pasted, notices, a slow line."""

import base64
import mimetypes
from pathlib import Path

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
