# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from snf_app.cli.tables import TableColumn, print_facts, print_table

if TYPE_CHECKING:
    from snf_client.schemas.datasets import DatasetDetail, DatasetEntry, Duplicates

MAX_ROWS = 10
KINDS = {"image": "image files", "tar": "tar archives", "parquet": "Parquet files"}
"""What the kinds of files of a dataset by reference are called."""
MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "I;16": "16-bit grey",
}
PARTS = ("train", "statistics", "calibration", "test")


def print_datasets(datasets: Sequence[DatasetEntry]) -> None:
    """Print a table of the usable datasets on stdout, and the reasons of the others on stderr."""
    rows = [
        (
            dataset.name,
            dataset.origin,
            _shape(dataset.image_shape) or "not inspected",
            str(dataset.images),
            _parts(dataset) or "only to score",
            _bytes(dataset.bytes),
        )
        for dataset in datasets
        if dataset.problem is None
    ]
    columns = (
        TableColumn("name", fold=20),
        TableColumn("origin", drop=2),
        TableColumn("image"),
        TableColumn("images", right=True),
        TableColumn("split", fold=20, drop=3),
        TableColumn("size", right=True, drop=1),
    )
    print_table(columns, rows)
    for dataset in datasets:
        if dataset.problem is not None:
            typer.echo(f"snf: {dataset.name} cannot be used: {dataset.problem}", err=True)


def print_report(dataset: DatasetDetail) -> None:
    """Print the counts and sizes of a dataset, with duplicates and rejected files where known."""
    report, reference = dataset.report, dataset.reference
    facts = {"images": str(dataset.images)}
    if dataset.image_shape:
        facts |= {
            "split": _parts(dataset),
            "sizes": _range(dataset.smallest, dataset.largest),
            "model input": f"{_shape(dataset.image_shape)} (channels, height, width) by default",
        }
    facts["originals"] = _bytes(dataset.bytes)
    if reference is not None:
        facts |= {
            "location": reference.location,
            "files": ", ".join(f"{count} {KINDS[kind]}" for kind, count in reference.files.items()),
            "inspected": "no: only jobs of type score take it" if report is None else "yes",
        }
    if report is None:
        if reference is not None:
            facts |= {"rejected files": str(reference.rejected), "ignored files": str(reference.ignored)}
        print_facts(facts, dataset.name)
        if reference is not None:
            rejected = [(file.path, file.reason) for file in reference.rejected_files]
            _print_first("rejected", "reason", rejected, reference.rejected)
        return
    equal, near = report.duplicates, report.near_duplicates
    facts |= {
        "formats": _counts(report.formats),
        "colours": _counts({MODES.get(mode, mode): count for mode, count in report.modes.items()}),
        "duplicates": _alike(equal, "set"),
        "near duplicates": _alike(near, "pair"),
        "rejected files": str(report.rejected),
        "ignored files": str(report.ignored),
    }
    print_facts(facts, dataset.name)
    _print_first("size", "images", [(f"{size.width}x{size.height}", str(size.images)) for size in report.sizes])
    for title, duplicates in (("duplicates", equal), ("near duplicates", near)):
        _print_first(title, "", [(paths[0], ", ".join(paths[1:])) for paths in duplicates.examples], duplicates.sets)
    _print_first("rejected", "reason", [(file.path, file.reason) for file in report.rejected_files], report.rejected)
    for note in report.notes:
        _print_line(f"- {note}")


def _print_first(first: str, second: str, rows: list[tuple[str, str]], total: int | None = None) -> None:
    if not rows:
        return
    print_table((TableColumn(first, fold=24), TableColumn(second, fold=24)), rows[:MAX_ROWS])
    more = (total or len(rows)) - MAX_ROWS
    if more > 0:
        _print_line(f"  and {more} more; --json has {len(rows)} of them")


def _alike(alike: Duplicates, what: str) -> str:
    if not alike.images:
        return "none"
    return f"{alike.images} images in {alike.sets} {what}{'' if alike.sets == 1 else 's'}"


def _parts(dataset: DatasetEntry | DatasetDetail) -> str:
    counts = {part: getattr(dataset, part) for part in PARTS if getattr(dataset, part)}
    if dataset.folds:
        counts[f"reference in {dataset.folds} folds"] = counts.pop("statistics")
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


def _print_line(line: str) -> None:
    from rich.console import Console

    Console().print(line, markup=False, highlight=False)
