"""Rows of results with PASS or FAIL, kept in a file, so that a run that is interrupted goes on where it was."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.installation import write_results

NAME = "by_reference"


MAX_BUSY = 0.5
"""Cores that other programs may take where a speed counts."""
KEYS = (
    *(f"{way}/{row}" for way in ("job", "bulk", "ray") for row in ("rate", "killed", "memory")),
    *("job/large", "two", "readers", "tars", "parquet", "s3", "s3/requests"),
)
"""All rows, in the order in which they are shown."""


def verdict(good: bool, others: float = 0.0) -> str:
    """Return PASS or FAIL; BUSY where other programs took too many cores for a speed to count."""
    if others > MAX_BUSY:
        return "BUSY"
    return "PASS" if good else "FAIL"


def busy_cores(seconds: float = 10.0) -> float:
    """Return how many cores other programs take while this one waits. The load average holds our own past, too."""

    def taken() -> float:
        user, nice, system, _idle, _waiting, irq, soft, steal, *_ = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")

    before, began = taken(), time.monotonic()
    time.sleep(seconds)
    return (taken() - before) / (time.monotonic() - began)


@dataclass(frozen=True)
class Row:
    """One promise: what was measured, what is wanted, and PASS, FAIL, BUSY or TOO SHORT."""

    key: str
    what: str
    measured: str
    wanted: str
    verdict: str
    details: dict[str, Any] = field(default_factory=dict)


class Rows:
    """The rows of a run, written after each.

    Args:
        folder: Folder of ``by_reference.json`` and ``by_reference.md``.
        images: Number of images of the run; rows of other numbers are not kept.
        described: The machine.
        fresh: Whether rows of earlier runs are measured again, those of ``patterns`` alone.
        patterns: Keys of the rows to measure; none for all.
    """

    def __init__(
        self, folder: Path, images: int, described: dict[str, Any], *, fresh: bool, patterns: list[str]
    ) -> None:
        self._folder = folder
        self._images = images
        self._patterns = patterns
        self._rows: dict[str, Row] = {}
        self._machine = described
        self.facts: dict[str, Any] = {}
        """Figures of earlier rows that later ones, and plans, need."""
        path = folder / f"{NAME}.json"
        earlier = json.loads(path.read_text()) if path.is_file() else {}
        if earlier.get("images") == images:
            kept = [Row(**row) for row in earlier["rows"]]
            self._rows = {row.key: row for row in kept if not (fresh and self._asked(row.key))}
            self.facts = earlier["storage"]
            self._machine = earlier["machine"]

    def wants(self, *keys: str) -> bool:
        """Return whether one of these rows is still to be measured."""
        return any(self._asked(key) and (key not in self._rows or self._rows[key].verdict == "BUSY") for key in keys)

    def _asked(self, key: str) -> bool:
        return not self._patterns or any(fnmatch(key, one) for one in self._patterns)

    def record(self, row: Row) -> None:
        """Add a row, print it, and write all."""
        self._rows[row.key] = row
        print(f"{row.verdict} {row.key}: {row.measured} ({row.wanted})", flush=True)
        self.write()

    def write(self) -> None:
        """Write the results."""
        found = {
            "machine": self._machine,
            "images": self._images,
            "storage": self.facts,
            "rows": [asdict(row) for row in self._rows.values()],
        }
        write_results(self._folder, NAME, found, self.text())

    @property
    def all_passed(self) -> bool:
        """Whether every row passed."""
        return all(row.verdict == "PASS" for row in self._rows.values())

    def text(self) -> str:
        """Return the results as Markdown."""
        lines = [
            "# Scoring by reference",
            "",
            f"{self._machine['cpu']}, {self._machine['cores']} hardware threads, load "
            f"{self._machine['load_before']:.1f} before. {self._images:,} synthetic images of 28x28.",
            "",
            *table(list(self._rows.values())),
        ]
        return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> list[str]:
    """Return rows as lines of Markdown, with those that were not measured."""
    measured = {row.key: row for row in rows}
    lines = ["| row | | wanted | measured | |", "|---|---|---|---|---|"]
    for key in KEYS:
        row = measured.get(key, Row(key, "", "", "", "not measured"))
        lines.append(f"| `{key}` | {row.what} | {row.wanted} | {row.measured} | {row.verdict} |")
    return lines
