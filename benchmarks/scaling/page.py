"""The tables of ``docs/scaling.md``, written from the results of the benchmarks that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.by_reference.rows import MAX_BUSY, NAME, Row
from benchmarks.by_reference.rows import table as rows_table
from benchmarks.scaling import broker, replicas
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "scaling.md"


class Missing(Exception):
    """Raised when there is no result of a benchmark."""


def write(results: Path) -> None:
    """Write each table of the page between its marks ``<!-- NAME -->`` and ``<!-- end -->``."""
    tables: dict[str, Callable[[], list[str]]] = {
        "replicas": lambda: replicas_lines(read_results(results, "scaling_replicas")),
        "by reference": lambda: reference_lines(read_results(results, NAME)),
        "broker": lambda: broker_lines(read_results(results, "scaling_broker")),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in tables.items():
        block = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        marked = block.search(text)
        if marked is None:
            raise ValueError(f"{PAGE} has no marks for the table {name!r}")
        content = "\n".join(measured(lines)) + "\n"
        text = text[: marked.start()] + content + text[marked.end() :]
    PAGE.write_text(text, encoding="utf-8")


def measured(lines: Callable[[], list[str]]) -> list[str]:
    """Return the lines of a table, or a sentence that it was not measured, and what that needs."""
    try:
        return lines()
    except Missing as missing:
        return [f"Not measured yet: this {missing}."]


def read_results(results: Path, name: str) -> dict[str, Any]:
    """Return the results of a benchmark. Raises ``Missing`` if there are none."""
    path = results / f"{name}.json"
    if not path.is_file():
        raise Missing(f"needs {path.name}, which docs/figures.md has the command of")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def described(found: dict[str, Any]) -> str:
    """Return what results were taken on, and whether other programs took much of it."""
    machine, others = found["machine"], found.get("busy_cores", 0.0)
    note = f" **Other programs took {others:.1f} cores.**" if others > MAX_BUSY else ""
    return f"{machine['cpu']}, {machine['cores']} hardware threads, load {machine['load_before']:.1f} before.{note}"


def replicas_lines(found: dict[str, Any]) -> list[str]:
    """Return the load test of replicas."""
    return [f"{described(found)} `{found['model']}`, {found['seconds']:g} s a rate.", "", *replicas.table(found)]


def reference_lines(found: dict[str, Any]) -> list[str]:
    """Return the rows of images by reference."""
    return [
        f"{described(found)} {found['images']:,} synthetic images of 28x28 pixels.",
        "",
        *rows_table([Row(**row) for row in found["rows"]]),
    ]


def broker_lines(found: dict[str, Any]) -> list[str]:
    """Return what jobs cost the broker."""
    return [described(found), "", *broker.table(found)]
