"""Which Chromium the browser tests drive, and how it is started."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

ON_PATH = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first one has no window, toolbar and profile: a page takes it half of the time."""
PATIENCE_MS = 30_000  # two cores, shared with training

FLAGS = [
    # Whatever asks for another host fails at once, the same with and without a network.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
]


def find() -> str:
    """The path of a Chromium: `SNF_CHROMIUM`, one on PATH, or Playwright's download; skips the test without any."""
    if chosen := os.environ.get("SNF_CHROMIUM"):
        return chosen
    if found := next(filter(None, map(shutil.which, ON_PATH)), None):
        return found
    with sync_playwright() as playwright:
        downloaded = playwright.chromium.executable_path
    if Path(downloaded).exists():
        return downloaded
    pytest.skip(f"no Chromium: set SNF_CHROMIUM, install one of {', '.join(ON_PATH)}, or run `make test-browser`")


@contextmanager
def running_chromium(path: str) -> Iterator[Browser]:
    """A headless Chromium without a sandbox, which root could not have: it sees no page but ours."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, chromium_sandbox=False, timeout=2 * PATIENCE_MS
        )
        with browser:
            yield browser
