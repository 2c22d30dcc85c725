"""From opening the console to the first score of a dropped image, in a real browser.

``python -m benchmarks.first_score [--visits 20]``

Every visit has a fresh profile, so nothing is cached: the page is opened, and as soon as it takes images one is dropped
on it. Beside it, the same image sent to the same service by a program: the least that a score over HTTP takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.installation import PatientClient, snf_up
from benchmarks.needs import end, extra
from benchmarks.speed.machine import cores, describe
from snf_models.disk import write_atomically
from tests.support.paths import DIGITS

with extra("test"):
    import pytest
    from playwright.sync_api import Browser, expect

    from tests.browser.chromium import find, running_chromium
    from tests.browser.helpers import drop

RESULTS = Path(__file__).parent / "results"
STEPS = ("page takes images", "first score is read", "opening to first score", "one image by a program")


def visit(browser: Browser, address: str, number: int) -> tuple[float, float]:
    """Seconds until the page takes images, and from the drop until the score can be read."""
    digit = DIGITS[number % len(DIGITS)]
    with browser.new_context(base_url=address) as context:
        page = context.new_page()
        began = time.monotonic()
        page.goto("/", wait_until="commit")
        page.get_by_text("Drop images or folders here").wait_for()
        ready = time.monotonic()
        drop(page.get_by_role("main"), digit)
        expect(page.get_by_label("Scores").get_by_role("status")).to_contain_text("1 image scored")
        return ready - began, time.monotonic() - ready


def by_program(client: PatientClient, number: int) -> float:
    """Seconds of the same request without a browser."""
    digit = DIGITS[number % len(DIGITS)]
    files = {"images": (digit.name, digit.read_bytes())}
    began = time.monotonic()
    client.post("/v1/models/mnist-snf-glow/score", files=files).raise_for_status()
    return time.monotonic() - began


def table(rows: dict[str, list[float]]) -> Table:
    """The steps with median, least and greatest."""
    found = Table("seconds", "median", "least", "greatest")
    for name in STEPS:
        values = rows[name]
        found.add_row(name, *(f"{value:.3f}" for value in (statistics.median(values), min(values), max(values))))
    return found


def main() -> None:
    """Visit, print and write ``results/first_score.{json,md}``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_score", description=__doc__)
    parser.add_argument("--visits", type=int, default=20)
    arguments = parser.parse_args()
    try:
        path = find()
    except pytest.skip.Exception as reason:
        end(f"needs a browser: {reason}")
    machine = describe(cores())
    rows: dict[str, list[float]] = {name: [] for name in STEPS}
    with tempfile.TemporaryDirectory() as home, snf_up(Path(home)) as client, running_chromium(path) as browser:
        machine["chromium"] = browser.version
        for number in range(arguments.visits + 1):
            ready, scored = visit(browser, str(client.base_url), number)
            alone = by_program(client, number)
            if number:  # the first one warms up browser and service
                for name, value in zip(STEPS, (ready, scored, ready + scored, alone), strict=True):
                    rows[name].append(value)
    Console().print(table(rows))
    document: dict[str, Any] = {"machine": machine, "visits": arguments.visits, "seconds": rows}
    write_atomically(RESULTS / "first_score.json", (json.dumps(document, indent=1) + "\n").encode())
    lines = ["| seconds | median | least | greatest |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} | {max(values):.3f} |"
        for name, values in rows.items()
    ]
    write_atomically(RESULTS / "first_score.md", ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
