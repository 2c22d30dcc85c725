"""Results: one JSON document and one page of Markdown a subject, written anew after every finished row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import describe
from benchmarks.speed.pairing import Ratio, Target
from snf_models.disk import write_atomically

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Row:
    """One figure. ``key`` names it for ever: a later row with the same key takes its place.

    ``what`` says what is divided by what; ``details`` are plain numbers and words that belong to it. ``problem``: why
    there is no figure.
    """

    key: str
    what: str
    ratio: Ratio | None = None
    target: Target | None = None
    details: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the row for JSON."""
        target = self.target
        return {
            "key": self.key,
            "what": self.what,
            "ratio": None if self.ratio is None else self.ratio.document(),
            "target": None if target is None else str(target),
            "met": None if target is None or self.ratio is None else target.met(self.ratio.median),
            "details": self.details,
            "problem": self.problem,
        }


class Results:
    """The rows of one subject, with those of earlier runs, in ``speed_<what>.json`` and ``.md`` of ``folder``."""

    def __init__(self, what: str, title: str, threads: int, folder: Path = RESULTS) -> None:
        self.title = title
        self.json, self.markdown = (folder / f"speed_{what}.{end}" for end in ("json", "md"))
        self.rows: list[dict[str, Any]] = json.loads(self.json.read_text())["rows"] if self.json.exists() else []
        self.machine = describe(threads)

    def record(self, row: Row) -> None:
        """Add a row, in the place of an earlier one with its key, write both files, and print it."""
        document = row.document() | {"machine": self.machine}
        for place, known in enumerate(self.rows):
            if known["key"] == row.key:
                self.rows[place] = document
                break
        else:
            self.rows.append(document)
        write_atomically(self.json, (json.dumps({"title": self.title, "rows": self.rows}, indent=1) + "\n").encode())
        write_atomically(self.markdown, page(self.title, self.rows).encode())
        print(line(document), flush=True)


def page(title: str, rows: list[dict[str, Any]]) -> str:
    """Return the Markdown of a subject."""
    machines: list[dict[str, Any]] = []
    for row in rows:
        if row["machine"] not in machines:
            machines.append(row["machine"])
    lines = [f"# {title}", "", *(f"{number}. {machine_line(one)}" for number, one in enumerate(machines, 1))]
    lines += [
        "",
        "Every ratio is paired: its sides take turns in one run. Median, least and greatest over the rounds.",
        "",
        "| figure | median | least | greatest | rounds | target | met | machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        number = machines.index(row["machine"]) + 1
        lines.append(f"| {row['what']} | {cells(row)} | {number} |")
    for row in rows:
        if row["details"]:
            lines += ["", f"**{row['what']}**", ""]
            lines += [f"- {name}: {shown(value)}" for name, value in row["details"].items()]
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any]) -> str:
    """Return a row's figures as cells of a Markdown table."""
    target = row["target"] or ""
    if row["problem"] is not None:
        return f"not measured: {row['problem']} | | | | {target} | "
    found = row["ratio"]
    figures = ["", "", "", ""] if found is None else [*map(figure, [found[k] for k in SPREAD]), str(found["rounds"])]
    return " | ".join([*figures, target, {None: "", True: "yes", False: "**no**"}[row["met"]]])


SPREAD = ("median", "least", "greatest")


def line(row: dict[str, Any]) -> str:
    """Return a row as one line for the terminal."""
    if row["problem"] is not None:
        return f"{row['key']}: not measured: {row['problem']}"
    found = row["ratio"]
    text = f"{row['key']}: "
    if found is not None:
        median, least, greatest = (figure(found[name]) for name in SPREAD)
        text += f"{median} ({least} to {greatest}, {found['rounds']} rounds)"
    if row["target"] is not None:
        text += f", target {row['target']}: {'met' if row['met'] else 'NOT MET'}"
    return text


def machine_line(machine: dict[str, Any]) -> str:
    """Return a machine as one line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads used, "
        f"{' '.join(machine['flags'])}; Python {machine['python']}, {versions}; load before {machine['load_before']}"
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
