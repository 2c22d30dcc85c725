# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    Url,
    client_schema,
    error_messages,
    fail,
    print_deleted,
    print_json,
    print_response,
    read_settings,
    refuse_before_subcommand,
    url_option,
)
from snf_app.cli.out_file import Force, check_new, write_out
from snf_app.cli.remote import service
from snf_app.cli.run_tables import curves_csv, print_comparison, print_run, print_runs
from snf_runtime.errors import FAILED, USAGE
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_client.schemas.training import RunDetail, RunList
    from snf_worker.jobs.runs import RunStore

CURVE_POINTS = 1000
"""Points of a curve: far more than a terminal has columns."""
MAX_COMPARED = 8
"""Most runs of a comparison: more columns fit no terminal."""

HELP = "List, show, compare, export and delete records of training runs. Without a subcommand: list."
runs = typer.Typer(help=HELP, invoke_without_command=True)

RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False, autocompletion=completion.runs)
]
RunIds = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Ids of runs.", show_default=False, autocompletion=completion.runs),
]


@runs.callback(help=HELP)
def list_by_default(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Run ``snf runs list`` if ``snf runs`` is called without a subcommand."""
    if context.invoked_subcommand is None:
        list_runs(url=url, key=key, as_json=as_json)
    else:
        refuse_before_subcommand(context)


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
    page = _page(limit, after, url, key)
    if as_json:
        print_response(page)
    else:
        print_runs(page)
        if page.next is not None:
            typer.echo(f"older runs: snf runs list --after {page.next}{url_option(url)}")


@runs.command()
def show(run_id: RunId, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a training run: its parameters, its result or error, and its learning curve."""
    [detail] = _details([run_id], url, key)
    if as_json:
        print_response(detail)
    else:
        print_run(detail, url_option(url))


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
    from snf_app.cli.run_export import to_tensorboard
    from snf_worker.jobs.runs import RUN_ID

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
    for run_id in run_ids:
        if url:
            with service(url, key) as client:
                client.runs.delete(run_id)
        else:
            with error_messages():
                _store().remove(run_id)
        print_deleted(run_id, as_json=as_json)


def _page(limit: int, after: str | None, url: str | None, key: str | None) -> RunList:
    if url:
        with service(url, key) as client:
            return client.runs.list(limit=limit, after=after)
    with error_messages():
        from snf_app.runs.endpoints import run_list
        from snf_client.schemas.training import RunList

        return client_schema(RunList, run_list(_store(), limit, after))


def _details(run_ids: list[str], url: str | None, key: str | None) -> list[RunDetail]:
    if url:
        with service(url, key) as client:
            return [client.runs.get(run_id, points=CURVE_POINTS) for run_id in run_ids]
    with error_messages():
        from snf_app.runs.endpoints import run_detail
        from snf_client.schemas.training import RunDetail

        store = _store()
        return [client_schema(RunDetail, run_detail(store, run_id, CURVE_POINTS)) for run_id in run_ids]


def _store() -> RunStore:
    from snf_worker.jobs.runs import RunStore

    return RunStore(read_settings().run_records_dir)
