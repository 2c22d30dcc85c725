# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from snf_app.cli.job_tables import print_curve
from snf_app.cli.new_version import published_line
from snf_app.cli.progress import duration
from snf_app.cli.tables import TableColumn, print_facts, print_table

if TYPE_CHECKING:
    from snf_client.schemas.training import RunDetail, RunList, TrainingRun

STYLES = {"finished": "green", "failed": "bold red", "unfinished": "yellow"}
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_white", "bright_cyan")
MISSING = "-"
COLUMNS = ("run", "model", "kind", "step", "bits_per_dim", "reconstruction_error", "learning_rate")
"""Columns of the CSV of curves; ``kind`` is training or validation."""


def print_runs(page: RunList) -> None:
    from rich.text import Text

    columns = (
        TableColumn("id"),
        TableColumn("state"),
        TableColumn("model", fold=20),
        TableColumn("by", drop=1),
        TableColumn("dataset", fold=12, drop=4),
        TableColumn("preset", fold=12, drop=3),
        TableColumn("bits/dim", right=True, drop=5),
        TableColumn("started", drop=2),
    )
    rows = [
        (
            run.id,
            Text(run.state, STYLES[run.state]),
            _name(run),
            run.origin,
            run.dataset,
            run.preset,
            _number(_bits(run), ".4f", ""),
            f"{run.started:%Y-%m-%d %H:%M} UTC",
        )
        for run in page.runs
    ]
    print_table(columns, rows)


def print_run(detail: RunDetail, options: str = "") -> None:
    """Print a run and draw its curve; suggested commands end with ``options`` of ``url_option``."""
    from rich.text import Text

    run, result = detail.run, detail.run.result
    facts: dict[str, str | Text] = {"state": Text(run.state, STYLES[run.state]), **_facts(run)}
    if result is not None:
        unfit = list(result.unfit.values())
        live = int(result.ref.partition(":")[2]) if result.live else None
        facts["outcome"] = published_line(result.ref, live=live, unfit=unfit, options=options)
    facts |= {
        "error": run.error or "",
        "by": run.origin if run.attempts == 1 else f"{run.origin}, {run.attempts} attempts",
        "retry of": run.retry_of or "",
        "started": f"{run.started:%Y-%m-%d %H:%M:%S} UTC",
        "parameters": ", ".join(f"{name} {_value(value)}" for name, value in run.parameters.items()),
    }
    print_facts(facts, f"run {run.id}")
    print_curve(detail)


def print_comparison(details: Sequence[RunDetail], *, every: bool) -> None:
    """Print runs side by side, with ``every`` also equal settings, and their curves in one chart."""
    from rich.console import Console

    shown = [detail.run for detail in details]
    numbers = [str(number) for number, _ in enumerate(shown, 1)]
    print_table(
        (TableColumn("run"), TableColumn("id"), TableColumn("model", fold=16), TableColumn("state", drop=1)),
        [(number, run.id, _name(run), run.state) for number, run in zip(numbers, shown, strict=True)],
    )
    settings = [_settings(run) for run in shown]
    names = list(dict.fromkeys(name for each in settings for name in each))
    rows = {name: [each.get(name, MISSING) for each in settings] for name in names}
    differing = {name: values for name, values in rows.items() if len(set(values)) > 1}
    equal = {name: values for name, values in rows.items() if name not in differing}
    facts = [_facts(run) for run in shown]
    results = {name: [each[name] or MISSING for each in facts] for name in facts[0] if name != "layers"}
    _print_side_by_side("differs", numbers, differing)
    _print_side_by_side("result", numbers, results)
    if every:
        _print_side_by_side("equal", numbers, equal)
    else:
        typer.echo(f"{len(equal)} settings are equal; --all shows them")
    for row in _chart(details, numbers, min(100, Console().width)):
        Console().print(row)


def curves_csv(details: Sequence[RunDetail]) -> str:
    """Return the learning curves as CSV, a row for each reported step and each validation."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore")
    table.writeheader()
    for detail in details:
        for kind, points in (("training", detail.points), ("validation", detail.validations)):
            start = {"run": detail.run.id, "model": _name(detail.run), "kind": kind}
            table.writerows({**point.model_dump(), **start} for point in points)
    return text.getvalue()


def _print_side_by_side(title: str, numbers: Sequence[str], rows: dict[str, list[str]]) -> None:
    if not rows:
        return
    columns = (TableColumn(title, fold=12), *(TableColumn(number, right=True, fold=8) for number in numbers))
    print_table(columns, [(name.replace("_", " "), *values) for name, values in rows.items()])


def _chart(details: Sequence[RunDetail], numbers: Sequence[str], width: int) -> list[Any]:
    """Return the rows of a chart of bits/dim: of validations if all runs have two, else of training steps."""
    from snf_app.cli.chart import Chart, Line

    validated = all(len(detail.validations) > 1 for detail in details)
    lines = []
    for number, colour, detail in zip(numbers, COLOURS, details, strict=False):
        line = Line(number, colour)
        for point in detail.validations if validated else detail.points:
            line.add(point.step, point.bits_per_dim)
        lines.append(line)
    return Chart(f"{'validation' if validated else 'training'} bits/dim", lines).draw(width)


def _settings(run: TrainingRun) -> dict[str, str]:
    layers = MISSING if run.result is None else run.result.architecture
    fixed = {"preset": run.preset, "layers": layers, "dataset": run.dataset, "device": run.device}
    return fixed | {name: _value(value) for name, value in run.parameters.items()}


def _facts(run: TrainingRun) -> dict[str, str]:
    """Return what a run gave, by name; "" for what it has not."""
    result = run.result
    test, validation, nats, inverse = (None,) * 4 if result is None else (
        result.test_bits_per_dim, result.validation_bits_per_dim, result.test_nats, result.reconstruction_error
    )  # fmt: skip
    return {
        "test bits/dim": _number(test, ".4f"),
        "validation bits/dim": _number(validation, ".4f"),
        "test nats": _number(nats, ".1f"),
        "learned inverse ||I - RW||": _number(inverse, ".2e"),
        "fit": "" if result is None else ", ".join(result.unfit) or "yes",
        "steps": _number(run.steps, "d"),
        "time": "" if run.seconds is None else duration(run.seconds),
        "layers": "" if result is None else result.architecture,
    }


def _name(run: TrainingRun) -> str:
    return run.model if run.result is None else run.result.ref


def _bits(run: TrainingRun) -> float | None:
    result = run.result
    if result is None:
        return None
    return result.test_bits_per_dim if result.test_bits_per_dim is not None else result.validation_bits_per_dim


def _number(value: float | None, form: str, missing: str = "") -> str:
    return missing if value is None else format(value, form)


def _value(value: object) -> str:
    from snf_models.texts import value_text

    return value_text(tuple(value) if isinstance(value, list) else value)
