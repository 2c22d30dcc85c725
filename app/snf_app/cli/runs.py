"""Command ``snf runs``: records of trainings, their comparison, and their export to TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from snf_app.cli import completion
from snf_app.cli.common import ListingGroup, fail
from snf_app.cli.job_tables import MOMENT, print_curve, published_line
from snf_app.cli.live import Chart, Line
from snf_app.cli.output import (
    Cell,
    Force,
    TableColumn,
    check_new,
    duration,
    print_facts,
    print_table,
    text_of,
    write_out,
)
from snf_app.cli.service import Session, command, print_deleted
from snf_client.schemas.training import RunDetail, RunList, TrainingRun
from snf_models.disk import new_folder
from snf_models.texts import value_text
from snf_runtime.errors import FAILED, USAGE
from snf_worker.jobs.runs import RUN_ID
from snf_worker.process_setup import user_umask

STYLES = {"finished": "green", "failed": "bold red", "unfinished": "yellow"}
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_white", "bright_cyan")
MISSING = "-"
COLUMNS = ("run", "model", "kind", "step", "bits_per_dim", "reconstruction_error", "learning_rate")
"""Columns of the CSV of curves; ``kind`` is training or validation."""


def _name(run: TrainingRun) -> str:
    return run.model if run.result is None else run.result.ref


def _bits(run: TrainingRun) -> str:
    result = run.result
    if result is None:
        return ""
    bits = result.test_bits_per_dim if result.test_bits_per_dim is not None else result.validation_bits_per_dim
    return text_of(bits, ".4f")


RUNS = (
    TableColumn("id", lambda run: run.id),
    TableColumn("state", lambda run: Text(run.state, STYLES[run.state])),
    TableColumn("model", _name, fold=20),
    TableColumn("by", lambda run: run.origin, drop=1),
    TableColumn("dataset", lambda run: run.dataset, fold=12, drop=4),
    TableColumn("preset", lambda run: run.preset, fold=12, drop=3),
    TableColumn("bits/dim", _bits, right=True, drop=5),
    TableColumn("started", lambda run: f"{run.started:%Y-%m-%d %H:%M} UTC", drop=2),
)


def print_runs(page: RunList) -> None:
    print_table(RUNS, page.runs)


def print_run(detail: RunDetail, options: str = "") -> None:
    """Print a run and draw its curve; suggested commands end with ``options`` of ``url_option``."""
    run, result = detail.run, detail.run.result
    facts: dict[str, Cell] = {"state": Text(run.state, STYLES[run.state]), **_facts(run)}
    if result is not None:
        live = int(result.ref.partition(":")[2]) if result.live else None
        facts["outcome"] = published_line(result.ref, live=live, unfit=list(result.unfit.values()), options=options)
    facts |= {
        "error": run.error,
        "by": run.origin if run.attempts == 1 else f"{run.origin}, {run.attempts} attempts",
        "retry of": run.retry_of,
        "started": text_of(run.started, MOMENT),
        "parameters": ", ".join(f"{name} {_value(value)}" for name, value in run.parameters.items()),
    }
    print_facts(facts, f"run {run.id}")
    print_curve(detail)


def print_comparison(details: Sequence[RunDetail], *, every: bool) -> None:
    """Print runs side by side, with ``every`` also equal settings, and their curves in one chart."""
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
    for title, values in (("differs", differing), ("result", results), ("equal", equal if every else {})):
        if values:
            columns = (TableColumn(title, fold=12), *(TableColumn(number, right=True, fold=8) for number in numbers))
            print_table(columns, [(name.replace("_", " "), *cells) for name, cells in values.items()])
    if not every:
        typer.echo(f"{len(equal)} settings are equal; --all shows them")
    # Of validations if all runs have two, else of training steps.
    validated = all(len(detail.validations) > 1 for detail in details)
    lines = [Line(number, colour) for number, colour in zip(numbers, COLOURS, strict=False)]
    for line, detail in zip(lines, details, strict=True):
        for point in detail.validations if validated else detail.points:
            line.add(point.step, point.bits_per_dim)
    chart = Chart(f"{'validation' if validated else 'training'} bits/dim", lines)
    for row in chart.draw(min(100, Console().width)):
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


def _settings(run: TrainingRun) -> dict[str, str]:
    layers = MISSING if run.result is None else run.result.architecture
    fixed = {"preset": run.preset, "layers": layers, "dataset": run.dataset, "device": run.device}
    return fixed | {name: _value(value) for name, value in run.parameters.items()}


def _facts(run: TrainingRun) -> dict[str, str]:
    """Return what a run gave, by name; "" for what it has not."""
    result = run.result
    facts = {"steps": text_of(run.steps, "d"), "time": "" if run.seconds is None else duration(run.seconds)}
    if result is None:
        return dict.fromkeys((*RESULTS, "fit"), "") | facts | {"layers": ""}
    numbers = {name: text_of(getattr(result, field), form) for name, (field, form) in RESULTS.items()}
    return numbers | {"fit": ", ".join(result.unfit) or "yes"} | facts | {"layers": result.architecture}


RESULTS = {
    "test bits/dim": ("test_bits_per_dim", ".4f"),
    "validation bits/dim": ("validation_bits_per_dim", ".4f"),
    "test nats": ("test_nats", ".1f"),
    "learned inverse ||I - RW||": ("reconstruction_error", ".2e"),
}
"""Field and form of each measured result."""


def _value(value: object) -> str:
    return value_text(tuple(value) if isinstance(value, list) else value)


CURVE_POINTS = 1000  # points of a curve: far more than a terminal has columns
MAX_COMPARED = 8  # most runs of a comparison: more columns fit no terminal

commands = typer.Typer(rich_markup_mode="markdown")
runs = typer.Typer(cls=ListingGroup)
commands.add_typer(runs, name="runs")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", autocompletion=completion.runs)]
RunIds = Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.", autocompletion=completion.runs)]


@command(runs, "list")
def list_runs(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Number of runs at most.")] = 20,
    after: Annotated[
        str | None, typer.Option(help="Id of a run: list those older than it.", autocompletion=completion.runs)
    ] = None,
) -> None:
    """List the newest training runs, of jobs and of `snf train`: id, state, model, dataset, preset and bits/dim."""
    page = session.client.runs.list(limit=limit, after=after)
    session.print(page, print_runs)
    if page.next is not None and not session.as_json:
        typer.echo(f"older runs: snf runs list --after {page.next}{session.option}")


@command(runs)
def show(session: Session, run_id: RunId) -> None:
    """Show a training run: its parameters, its result or error, and its learning curve."""
    detail = session.client.runs.get(run_id, points=CURVE_POINTS)
    session.print(detail, lambda detail: print_run(detail, session.option))


@command(runs)
def compare(
    session: Session,
    run_ids: RunIds,
    every: Annotated[bool, typer.Option("--all", help="Show parameters that are equal, too.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file for the curves, a row a step.")] = None,
    force: Force = False,
) -> None:
    """Compare training runs by the parameters that differ, the results and the learning curves."""
    if not 2 <= len(set(run_ids)) == len(run_ids) <= MAX_COMPARED:
        raise fail(f"expected 2 to {MAX_COMPARED} different runs, got {len(set(run_ids))}", USAGE)
    check_new(out, (".csv",), force=force)
    details = [session.client.runs.get(run_id, points=CURVE_POINTS) for run_id in run_ids]
    document = {"runs": [detail.model_dump(mode="json") for detail in details]}
    session.print(document, lambda _: print_comparison(details, every=every))
    if out is not None:
        write_out(out, curves_csv(details).encode())
        typer.echo(f"the curves are in {out}", err=session.as_json)


@command(runs, as_json=False)
def export(
    session: Session,
    run_id: RunId,
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder that gets the run.")],
    to: Annotated[str, typer.Option(help="Program that shows it: tensorboard.")] = "tensorboard",
) -> None:
    """Write a training run's parameters, learning curve and result to local TensorBoard files.

    Nothing is sent anywhere. Needs the extra `tensorboard`.
    """
    if to != "tensorboard":
        raise fail(f"--to: expected tensorboard, got {to}", USAGE)
    detail = session.client.runs.get(run_id, points=CURVE_POINTS)
    if RUN_ID.fullmatch(detail.run.id) is None:
        raise fail(f"expected the service to give a run an id of 26 letters and digits, got {detail.run.id!r}", FAILED)
    with user_umask():
        to_tensorboard(detail, folder.absolute())
    typer.echo(f"run {run_id} is in {folder}; see it with: tensorboard --logdir {folder.absolute()}")


@command(runs)
def delete(session: Session, run_ids: RunIds) -> None:
    """Delete the records and learning curves of training runs, but not their jobs and models.

    Stops at the first error.
    """
    for run_id in run_ids:
        session.client.runs.delete(run_id)
        session.print({"deleted": run_id}, print_deleted)


OF_STEP = ("bits_per_dim", "reconstruction_error", "learning_rate", "images_per_second")
OF_RESULT = ("test_bits_per_dim", "validation_bits_per_dim", "test_nats", "reconstruction_error")


def to_tensorboard(detail: RunDetail, folder: Path) -> None:
    """Write a run to a new folder in ``folder``; exit with code 2 if that exists."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise fail("TensorBoard is not installed (pip install 'snf-density[tensorboard]')", USAGE) from error
    run = detail.run
    # By its id alone: the name of a model comes from a service, and may be a path to elsewhere.
    target = folder / run.id
    if target.exists():
        raise fail(f"expected a folder without this run, got {target}; delete it to write it anew", USAGE)
    settings = {"model": run.model, "dataset": run.dataset, "preset": run.preset, "device": run.device}
    settings |= {name: str(value) for name, value in run.parameters.items()}
    results = {f"result/{name}": getattr(run.result, name, None) for name in OF_RESULT}
    with new_folder(target) as unfinished, SummaryWriter(str(unfinished)) as writer:
        for kind, points in (("training", detail.points), ("validation", detail.validations)):
            for point in points:
                for name in OF_STEP:
                    if (value := getattr(point, name, None)) is not None:
                        writer.add_scalar(f"{kind}/{name}", value, point.step, point.time.timestamp())
        # The name of a run within this one: its own folder.
        known = {name: value for name, value in results.items() if value is not None}
        writer.add_hparams(settings, known, run_name=".")
