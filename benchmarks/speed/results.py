"""Results: one JSON document and one page of Markdown a subject, written anew after every finished row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, machine, read_results, table, write_results
from benchmarks.speed.pairing import Ratio, Target

SPREAD = ("median", "least", "greatest")


class Results:
    """The rows of one subject, with those of earlier runs, in ``speed_<what>.json`` and ``.md`` of ``folder``."""

    def __init__(self, what: str, title: str, threads: int, folder: Path = RESULTS) -> None:
        self.title, self.name, self.folder = title, f"speed_{what}", folder
        self.rows: list[dict[str, Any]] = read_results(folder / f"{self.name}.json").get("rows", [])
        self.machine = machine(threads)

    def record(self, document: dict[str, Any]) -> None:
        """Add a row, in the place of an earlier one with its key, write both files, and print it."""
        document |= {"machine": self.machine}
        keys = [row["key"] for row in self.rows]
        place = keys.index(document["key"]) if document["key"] in keys else len(keys)
        self.rows[place : place + 1] = [document]
        write_results(self.folder, self.name, {"title": self.title, "rows": self.rows}, page(self.title, self.rows))
        print(f"{document['key']}: {' | '.join(cells(document))}", flush=True)


@dataclass(frozen=True)
class Context:
    """The settings of one run of one subject; ``rows`` are patterns of row keys, all rows where there are none."""

    results: Results
    rounds: int
    threads: int
    images: int
    seconds: float
    rows: tuple[str, ...] = ()
    quick: bool = False

    @property
    def glow(self) -> str:
        """The preset of the Glow, a tiny one where the benchmark itself is only tried out."""
        return "snf-glow-tiny" if self.quick else "snf-glow-2l-16k"

    def wants(self, *keys: str) -> bool:
        """Whether any of these rows is to be measured."""
        return not self.rows or any(fnmatch(key, pattern) for key in keys for pattern in self.rows)

    def record(self, key: str, what: str, found: Ratio | None, target: Target | None = None, **details: Any) -> None:
        """Write down a row, where it is wanted; ``problem`` in the details says why there is no figure.

        ``key`` names a figure for ever, ``what`` says what is divided by what.
        """
        if self.wants(key):
            problem = details.pop("problem", None)
            met = None if target is None or found is None else target.met(found.median)
            of_row = {"key": key, "what": what, "ratio": None if found is None else asdict(found)}
            of_row |= {"target": None if target is None else str(target), "met": met}
            self.results.record(of_row | {"details": details, "problem": problem})


def page(title: str, rows: list[dict[str, Any]]) -> str:
    machines: list[dict[str, Any]] = []
    for row in rows:
        if row["machine"] not in machines:
            machines.append(row["machine"])
    lines = [
        *(f"# {title}", ""),
        *(f"{number}. {machine_line(one)}" for number, one in enumerate(machines, 1)),
        *(
            "",
            "Every ratio is paired: its sides take turns in one run. Median, least and greatest over the rounds.",
            "",
        ),
        *table(
            ("figure", *SPREAD, "rounds", "target", "met", "machine"),
            [(row["what"], *cells(row), machines.index(row["machine"]) + 1) for row in rows],
        ),
    ]
    for row in rows:
        if row["details"]:
            lines += ["", f"**{row['what']}**", ""]
            lines += [f"- {name}: {shown(value)}" for name, value in row["details"].items()]
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's figures as cells of a table."""
    found, met = row["ratio"], {None: "", True: "yes", False: "**no**"}[row["met"]]
    figures = ["", "", "", ""] if found is None else [*(figure(found[name]) for name in SPREAD), str(found["rounds"])]
    if row["problem"] is not None:
        figures[0] = f"not measured: {row['problem']}"
    return [*figures, row["target"] or "", met]


def machine_line(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads used, {' '.join(found['flags'])}; "
        f"Python {found['python']}, {versions}; load before {found['load_before']}"
    )


def figure(value: float) -> str:
    """Return a number with three digits or more.

    >>> figure(1.6549), figure(0.01234), figure(123.4)
    ('1.65', '0.0123', '123')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def shown(value: Any) -> str:
    """Return a detail for people."""
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(one) for one in value)
    return str(value)
