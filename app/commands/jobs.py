# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf jobs`: the jobs of a running service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.commands import completion
from app.commands.common import Json, Key, print_answer
from app.commands.live import live_view
from app.commands.progress import duration
from app.commands.service import followed, service, this_machine
from worker.jobs import Status

if TYPE_CHECKING:
    from app.schemas import JobView

STYLES = {"running": "cyan", "succeeded": "green", "failed": "bold red", "cancelled": "dim", "paused": "yellow"}

jobs = typer.Typer(help="List, follow and control the jobs of a running service.", no_args_is_help=True)

ServiceUrl = Annotated[
    str | None, typer.Option("--url", envvar="SNF_URL", help="The service. Default: the one on this machine.")
]
JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False, autocompletion=completion.jobs)]


@jobs.command("list")
def list_jobs(
    status: Annotated[Status | None, typer.Option(help="Only jobs with this status.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most jobs to list.")] = 20,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    with service(this_machine(url), key) as client:
        page = client.jobs.list(status=None if status is None else status.value, limit=limit)
    if as_json:
        print_answer(page)
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # A narrow terminal must not cut what other commands need.
    table = Table(Column("id", min_width=26), "type", "status", "model", "dataset", "done", "ETA", "bits/dim")
    for job in page.jobs:
        bits = job.metrics.get("bits_per_dim")
        eta = duration(job.progress.get("eta_seconds")) if job.status == "running" else ""
        status_text = Text(job.status, STYLES.get(job.status, ""))
        table.add_row(
            job.id,
            job.type,
            status_text,
            job.model,
            job.dataset,
            _percent(job),
            eta,
            f"{bits:.4f}" if bits is not None else "",
        )
    Console().print(table)


@jobs.command()
def show(job_id: JobId, url: ServiceUrl = None, key: Key = None) -> None:
    """Show a job as JSON."""
    with service(this_machine(url), key) as client:
        print_answer(client.jobs.get(job_id))


@jobs.command()
def watch(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Follow a job until it is over; exit code 0 where it succeeded, 3 where not. Ctrl-C ends the watching alone."""
    with service(this_machine(url), key) as client:
        with live_view(as_json) as observe:
            job = followed(client, job_id, observe)
        if not as_json:
            typer.echo(outcome(job))


@jobs.command()
def metrics(
    job_id: JobId,
    as_csv: Annotated[bool, typer.Option("--csv", help="As a table, one row a step.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Show the training curve of a job, as JSON or CSV."""
    with service(this_machine(url), key) as client:
        if as_csv:
            typer.echo(client.jobs.metrics_csv(job_id), nl=False)
        else:
            print_answer(client.jobs.metrics(job_id))


@jobs.command()
def log(
    job_id: JobId,
    tail: Annotated[int, typer.Option(min=1, max=2**20, help="Most bytes of it.")] = 64 * 1024,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Show the end of what a job's training processes printed."""
    with service(this_machine(url), key) as client:
        typer.echo(client.jobs.log(job_id, tail=tail), nl=False)


@jobs.command()
def cancel(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job."""
    with service(this_machine(url), key) as client:
        _tell(client.jobs.cancel(job_id), as_json)


@jobs.command()
def pause(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Pause a job; a running one writes a checkpoint first."""
    with service(this_machine(url), key) as client:
        _tell(client.jobs.pause(job_id), as_json)


@jobs.command()
def resume(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Let a paused job go on from its checkpoint, first in line."""
    with service(this_machine(url), key) as client:
        _tell(client.jobs.resume(job_id), as_json)


@jobs.command()
def retry(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Submit a failed or cancelled job anew; it goes on from the old one's checkpoint."""
    with service(this_machine(url), key) as client:
        _tell(client.jobs.retry(job_id), as_json)


def _tell(job: JobView, as_json: bool) -> None:
    if as_json:
        print_answer(job)
        return
    asked = job.status in {"starting", "running"} and (job.cancel_requested or job.pause_requested)
    typer.echo(f"{job.id} is {job.status}{', asked to stop' if asked else ''}")


def outcome(job: JobView) -> str:
    """What a job that succeeded has made, in one line."""
    result = job.result or {}
    if "calibration" in result:
        return f"calibration {result['calibration']} of {result['ref']}, smallest alpha {result['smallest_p']:.4g}"
    if "ref" in result:
        return f"registered {result['ref']}"
    if "anomalies" in result:
        return f"scored {result['images']} images, {result['anomalies']} anomalies, {result['errors']} errors"
    return f"job {job.id} succeeded"


def _percent(job: JobView) -> str:
    if job.status == "succeeded":
        return "100 %"
    done = job.progress.get("fraction")
    return "" if done is None else f"{100 * done:.0f} %"
