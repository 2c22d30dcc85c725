"""The tables of stored results as Markdown files beside them, without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.paper import tables
from snf_models.disk import make_folder, write_atomically

LIKELIHOODS = ("dense", "convolutional", "glow")
FILES: dict[str, list[Callable[[Path], list[str]]]] = {
    "table1": [
        lambda results: tables.likelihoods(results, LIKELIHOODS, "table1"),
        lambda results: tables.gaps(results, LIKELIHOODS),
        tables.code_curves,
    ],
    "table2": [
        lambda results: tables.likelihoods(results, ["cifar10"], "table2"),
        lambda results: tables.gaps(results, ["cifar10"]),
    ],
    "table3": [tables.times, tables.milliseconds],
    "figure3": [tables.final_angles],
    "figure4": [tables.growth],
    "projection": [lambda results: tables.gradients(results, "projection")],
    "multiplier": [lambda results: tables.gradients(results, "multiplier")],
}


def block(lines: Callable[[Path], list[str]], results: Path) -> str:
    """Return a table, or a sentence that it was not measured, and by what it is."""
    try:
        return "\n".join(lines(results))
    except tables.Missing as missing:
        return f"Not measured yet: `{missing}`."


def write(results: Path) -> None:
    make_folder(results)
    for command, blocks in FILES.items():
        head = [f"# {command}", f"`python -m benchmarks.paper {command}`"]
        text = "\n\n".join([*head, *(block(one, results) for one in blocks), "\n".join(tables.machines(results))])
        write_atomically(results / f"{command}.md", (text + "\n").encode())
