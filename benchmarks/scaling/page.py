"""The tables and the picture of ``docs/scaling.md``, written from the results of the benchmarks that it names."""

from __future__ import annotations

import hashlib
import json
import re
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.by_reference.rows import MAX_BUSY, NAME, Row
from benchmarks.by_reference.rows import table as rows_table
from benchmarks.scaling import broker, plan, replicas
from benchmarks.scaling.plan import Missing, read_results
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "scaling.md"
PICTURE = ROOT / "docs" / "images" / "scaling.svg"


def write(results: Path) -> None:
    """Write each table of the page between its marks ``<!-- NAME -->`` and ``<!-- end -->``."""
    options = ArgumentParser()
    plan.add_arguments(options)
    tables: dict[str, Callable[[], list[str]]] = {
        "use": lambda: [replicas.use_of(read_results(results, "scaling_replicas"))],
        "replicas": lambda: replicas_lines(read_results(results, "scaling_replicas")),
        "picture": lambda: picture_lines(results),
        "by reference": lambda: reference_lines(read_results(results, NAME)),
        "broker": lambda: broker_lines(read_results(results, "scaling_broker")),
        "plan": lambda: plan.table(plan.make(options.parse_args([]), results)),
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


def described(found: dict[str, Any]) -> str:
    """Return what results were taken on, and whether other programs took much of it."""
    machine, others = found["machine"], found.get("busy_cores", 0.0)
    note = f" **Other programs took {others:.1f} cores.**" if others > MAX_BUSY else ""
    return f"{machine['cpu']}, {machine['cores']} hardware threads, load {machine['load_before']:.1f} before.{note}"


def replicas_lines(found: dict[str, Any]) -> list[str]:
    """Return the load test beside the simulation."""
    costs = {name: 1e3 * seconds for name, seconds in found["costs"].items()}
    capacity = {int(count): most for count, most in found["capacity"].items()}
    lines = [
        f"{described(found)} `{found['model']}`, {found['seconds']:g} s a rate.",
        "",
        "| | measured | simulated |",
        "|---|---|---|",
        f"| two plain scoring loops over one: what this machine gives at most | {found['compute_limit']:.2f} | |",
    ]
    for count, most in capacity.items():
        lines.append(
            f"| images/s of {count} replica{'s' if count > 1 else ''} | {most['measured_per_s']:.0f} "
            f"| {most['simulated_per_s']:.0f} |"
        )
    ratios = [capacity[2][side] / capacity[1][side] for side in ("measured_per_s", "simulated_per_s")]
    return [
        *lines,
        f"| two replicas over one | {ratios[0]:.2f} | {ratios[1]:.2f} |",
        f"| ms of a batch of n images | {costs['batch']:.1f} + {costs['image']:.2f} n | |",
        f"| ms of the event loop for a batch of n images | {costs['wake']:.2f} + "
        f"{costs['head'] + costs['body'] + costs['answer']:.2f} n | |",
        f"| ms of the client for an image | {costs['client']:.2f} | |",
        "",
        "Measured / simulated (error), at multiples of the measured capacity. PASS: the images/s differ by at most "
        f"{replicas.RATE_WITHIN:.0%}, and p50 and p99 by at most a factor of {replicas.LATENCY_WITHIN:g}.",
        "",
        *replicas.table(found),
    ]


def digest(results: Path) -> str:
    """Return the SHA-256 of the results of the load test. Raises ``Missing`` if there are none."""
    content = json.dumps(read_results(results, "scaling_replicas"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def picture_lines(results: Path) -> list[str]:
    """Return the picture of the load test. Raises ``Missing`` if it was drawn from other results."""
    if not PICTURE.is_file() or digest(results) not in PICTURE.read_text(encoding="utf-8"):
        raise Missing("needs `python -m benchmarks.scaling.plot`, of the extra `bench`")
    return [
        "![Latency by load: simulated lines and measured points. Throughput by load for one to eight replicas.]"
        "(images/scaling.svg)",
        "",
        "On the right each replica has two cores of its own.",
    ]


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
