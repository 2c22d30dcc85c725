"""The results of the paper's tables and figures: JSON files, from which tables, pictures and the page are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import common

RESULTS = common.RESULTS / "paper"
Record = dict[str, Any]


def read(folder: Path, name: str) -> Record | None:
    """Return the results ``NAME.json``; None where they were not measured."""
    return common.read_results(folder / f"{name}.json") or None


def write_run(folder: Path, record: Record) -> None:
    """Write what was measured of a training, to six digits, in the place of an earlier state of it."""
    short = json.loads(json.dumps(record), parse_float=lambda number: float(f"{float(number):.6g}"))
    common.write_results(folder, name_of(record), short)


def name_of(record: Record) -> str:
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
