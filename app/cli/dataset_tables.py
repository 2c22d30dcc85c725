# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Datasets and their reports as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from app.datasets.schemas import DatasetDetail, DatasetEntry

SHOWN = 10
"""Rows of a table that may have very many."""
PARTS = ("train", "statistics", "calibration", "test")


def print_datasets(found: Sequence[DatasetEntry]) -> None:
    """Prints a row a dataset; of one that cannot be used, why, on stderr."""
    good = [one for one in found if one.problem is None]
    rows = [
        (
            one.name,
            one.origin,
            _shape(one.image_shape),
            str(one.images),
            _parts(one),
            _bytes(one.bytes),
        )
        for one in good
    ]
    _table(None, ("name", "origin", "image", "images", "shared out", "size"), rows)
    for one in found:
        if one.problem is not None:
            typer.echo(f"snf: {one.name} cannot be used: {one.problem}", err=True)


def print_report(found: DatasetDetail) -> None:
    """Prints what is known of one dataset."""
    report = found.report
    rows = [
        ("images", str(found.images)),
        ("shared out", _parts(found)),
        ("sizes", _range(found.smallest, found.largest)),
        ("a model gets", f"{_shape(found.image_shape)} (channels, height, width), unless told otherwise"),
        ("originals", _bytes(found.bytes)),
    ]
    if report is None:
        _table(found.name, ("", ""), rows)
        return
    same, near = report.duplicates, report.near_duplicates
    rows += [
        ("formats", _counts(report.formats)),
        ("modes", _counts(report.modes)),
        ("equal images", f"{same.images} in {same.sets} sets"),
        ("nearly equal images", f"{near.images} in {near.sets} pairs"),
        ("rejected files", str(report.rejected)),
        ("ignored files", str(report.ignored)),
    ]
    _table(found.name, ("", ""), rows)
    _some("size", "images", [(f"{s.width}x{s.height}", str(s.images)) for s in report.sizes])
    for title, duplicates in (("equal", same), ("nearly equal", near)):
        _some(title, "", [(one[0], ", ".join(one[1:])) for one in duplicates.examples])
    _some("rejected", "reason", [(one.path, one.reason) for one in report.rejected_files], report.rejected)
    for note in report.notes:
        _print(f"- {note}")


def _some(first: str, second: str, rows: list[tuple[str, str]], total: int | None = None) -> None:
    if not rows:
        return
    _table(None, (first, second), rows[:SHOWN])
    more = (total or len(rows)) - SHOWN
    if more > 0:
        _print(f"  and {more} more; --json has them, up to 100")


def _parts(one: DatasetEntry) -> str:
    counts = {part: getattr(one, part) for part in PARTS if getattr(one, part)}
    if one.folds:
        counts[f"reference in {one.folds} folds"] = counts.pop("statistics")
    return " / ".join(f"{count} {part}" for part, count in counts.items())


def _range(smallest: list[int], largest: list[int]) -> str:
    return " to ".join(dict.fromkeys(_shape(size) for size in (smallest, largest)))


def _shape(sides: list[int]) -> str:
    return "x".join(map(str, sides))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _bytes(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)


def _table(title: str | None, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # Paths are no markup, whatever brackets they have, and none is cut.
    table = Table(
        *(Column(name, overflow="fold") for name in columns),
        title=title,
        title_justify="left",
        show_header=any(columns),
    )
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _print(line: str) -> None:
    from rich.console import Console

    Console().print(line, markup=False, highlight=False)
