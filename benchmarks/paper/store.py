"""The results of the paper's tables and figures: JSON files, from which tables, pictures and the page are made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snf_models.disk import make_folder, write_atomically

RESULTS = Path(__file__).parents[1] / "results" / "paper"

Record = dict[str, Any]


def write(folder: Path, name: str, document: Record) -> None:
    """Write results as ``NAME.json``."""
    make_folder(folder)
    write_atomically(folder / f"{name}.json", (json.dumps(document, indent=1) + "\n").encode())


def read(folder: Path, name: str) -> Record | None:
    """Return the results ``NAME.json``; None where they were not measured."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_run(folder: Path, record: Record) -> None:
    """Write what was measured of a training, in the place of an earlier state of it."""
    write(folder, name_of(record), compact(record))


def name_of(record: Record) -> str:
    """Return the name of the results of a training."""
    return f"run-{record['group']}-{record['recipe']}-{record['row']}-{record['seed']}"


def runs(folder: Path, group: str, recipe: str | None = None, row: str | None = None) -> list[Record]:
    """Return what was measured of the trainings of a group, "*" for all, by recipe, row and seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"run-{group}-*.json"))]
    return [
        record
        for record in found
        if group in ("*", record["group"])
        and (recipe is None or record["recipe"] == recipe)
        and (row is None or record["row"] == row)
    ]


def compact(value: Any) -> Any:
    """Return a document with numbers of six digits, so that files stay small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: compact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [compact(item) for item in value]
    return value


def seconds_a_step(record: Record) -> float | None:
    """Return the mean time of a step of a training, without measurements; None before the first point."""
    curve: Sequence[Record] = record["curve"]
    return curve[-1]["seconds"] / curve[-1]["step"] if curve else None
