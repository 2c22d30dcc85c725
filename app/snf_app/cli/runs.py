from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    ListingGroup,
    Url,
    error_messages,
    fail,
    print_deleted,
    print_json,
    print_result,
    url_option,
)
from snf_app.cli.job_tables import print_curve, published_line
from snf_app.cli.live import Chart, Line
from snf_app.cli.output import Force, TableColumn, check_new, duration, print_facts, print_table, write_out
from snf_app.cli.service import service
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


def print_runs(page: RunList) -> None:
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
    return value_text(tuple(value) if isinstance(value, list) else value)


CURVE_POINTS = 1000
"""Points of a curve: far more than a terminal has columns."""
MAX_COMPARED = 8
"""Most runs of a comparison: more columns fit no terminal."""

commands = typer.Typer(rich_markup_mode="markdown")
runs = typer.Typer(cls=ListingGroup)
commands.add_typer(runs, name="runs")

RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False, autocompletion=completion.runs)
]
RunIds = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Ids of runs.", show_default=False, autocompletion=completion.runs),
]


@runs.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Number of runs at most.")] = 20,
    after: Annotated[
        str | None,
        typer.Option(help="Id of a run: list those older than it.", show_default=False, autocompletion=completion.runs),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the newest training runs, of jobs and of `snf train`: id, state, model, dataset, preset and bits/dim."""
    with service(url, key) as client:
        page = client.runs.list(limit=limit, after=after)
    print_result(page, as_json, print_runs)
    if page.next is not None and not as_json:
        typer.echo(f"older runs: snf runs list --after {page.next}{url_option(url)}")


@runs.command()
def show(run_id: RunId, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a training run: its parameters, its result or error, and its learning curve."""
    [detail] = _details([run_id], url, key)
    print_result(detail, as_json, lambda detail: print_run(detail, url_option(url)))


@runs.command()
def compare(
    run_ids: RunIds,
    every: Annotated[bool, typer.Option("--all", help="Show parameters that are equal, too.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV file for the curves, a row a step.", show_default=False)
    ] = None,
    force: Force = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Compare training runs by the parameters that differ, the results and the learning curves."""
    if not 2 <= len(set(run_ids)) == len(run_ids) <= MAX_COMPARED:
        raise fail(f"expected 2 to {MAX_COMPARED} different runs, got {len(set(run_ids))}", USAGE)
    if out is not None:
        check_new(out, (".csv",), force=force)
    details = _details(run_ids, url, key)
    if as_json:
        print_json({"runs": [detail.model_dump(mode="json") for detail in details]})
    else:
        print_comparison(details, every=every)
    if out is not None:
        write_out(out, curves_csv(details).encode())
        typer.echo(f"the curves are in {out}", err=as_json)


@runs.command()
def export(
    run_id: RunId,
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder that gets the run.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="Program that shows it: tensorboard.")] = "tensorboard",
    url: Url = None,
    key: Key = None,
) -> None:
    """Write a training run's parameters, learning curve and result to local TensorBoard files.

    Nothing is sent anywhere. Needs the extra `tensorboard`.
    """
    if to != "tensorboard":
        gone = "; the export to MLflow has been removed" if to == "mlflow" else ""
        raise fail(f"--to: expected tensorboard, got {to}{gone}", USAGE)
    [detail] = _details([run_id], url, key)
    if RUN_ID.fullmatch(detail.run.id) is None:
        raise fail(f"expected the service to give a run an id of 26 letters and digits, got {detail.run.id!r}", FAILED)
    with error_messages(), user_umask():
        shown_by = to_tensorboard(detail, folder.absolute())
    typer.echo(f"run {run_id} is in {folder}; see it with: {shown_by}")


@runs.command()
def delete(run_ids: RunIds, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Delete the records and learning curves of training runs, but not their jobs and models.

    Stops at the first error.
    """
    with service(url, key) as client:
        for run_id in run_ids:
            client.runs.delete(run_id)
            print_deleted(run_id, as_json=as_json)


def _details(run_ids: list[str], url: str | None, key: str | None) -> list[RunDetail]:
    with service(url, key) as client:
        return [client.runs.get(run_id, points=CURVE_POINTS) for run_id in run_ids]


OF_STEP = ("bits_per_dim", "reconstruction_error", "learning_rate", "images_per_second")
OF_RESULT = ("test_bits_per_dim", "validation_bits_per_dim", "test_nats", "reconstruction_error")


class Figure(NamedTuple):
    """One number of a training run at a step, measured at a time in seconds since 1970."""

    name: str
    step: int
    seconds: float
    value: float


def figures(detail: RunDetail) -> Iterator[Figure]:
    """Yield known values such as ``training/bits_per_dim``, training before validation, by step."""
    for kind, points in (("training", detail.points), ("validation", detail.validations)):
        for point in points:
            for name in OF_STEP:
                if (value := getattr(point, name, None)) is not None:
                    yield Figure(f"{kind}/{name}", point.step, point.time.timestamp(), value)


def results(detail: RunDetail) -> dict[str, float]:
    """Return the known results by name, such as ``result/test_bits_per_dim``."""
    result = detail.run.result
    values = {} if result is None else {f"result/{name}": getattr(result, name) for name in OF_RESULT}
    return {name: value for name, value in values.items() if value is not None}


def settings(detail: RunDetail) -> dict[str, str]:
    """Return model, dataset, preset, device and parameters of a run as texts."""
    run = detail.run
    return {"model": run.model, "dataset": run.dataset, "preset": run.preset, "device": run.device} | {
        name: str(value) for name, value in run.parameters.items()
    }


def to_tensorboard(detail: RunDetail, folder: Path) -> str:
    """Write a run to a new folder; return the command that shows it; exit with code 2 if the folder exists."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise fail("TensorBoard is not installed (pip install 'snf-density[tensorboard]')", USAGE) from error
    # By its id alone: the name of a model comes from a service, and may be a path to elsewhere.
    target = folder / detail.run.id
    if target.exists():
        raise fail(f"expected a folder without this run, got {target}; delete it to write it anew", USAGE)
    with new_folder(target) as unfinished, SummaryWriter(str(unfinished)) as writer:
        for figure in figures(detail):
            writer.add_scalar(figure.name, figure.value, figure.step, figure.seconds)
        # The name of a run within this one: its own folder.
        writer.add_hparams(settings(detail), results(detail), run_name=".")
    return f"tensorboard --logdir {folder}"
