"""`snf jobs`: the jobs of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import completion
from app.cli.common import USAGE, Json, Key, fail, print_answer
from app.cli.job_tables import outcome, print_curve, print_job, print_jobs
from app.cli.live import live_view
from app.cli.remote import followed, service, this_machine
from worker.jobs.record import Status

if TYPE_CHECKING:
    from app.jobs.schemas import JobView

DRAWN = 1000
"""Points of a curve that is drawn: far more than a terminal has columns."""

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
    else:
        print_jobs(page)


@jobs.command()
def show(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job: how far it is, what it was asked, what came of it."""
    with service(this_machine(url), key) as client:
        job = client.jobs.get(job_id)
    if as_json:
        print_answer(job)
    else:
        print_job(job)


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
    as_json: Json = False,
) -> None:
    """Show the learning curves of a job, drawn, as JSON or as CSV."""
    with service(this_machine(url), key) as client:
        if as_csv:
            typer.echo(client.jobs.metrics_csv(job_id), nl=False)
        elif as_json:
            print_answer(client.jobs.metrics(job_id))
        else:
            print_curve(client.jobs.metrics(job_id, points=DRAWN))


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
def download(
    job_id: JobId,
    out: Annotated[Path, typer.Option("--out", "-o", help="The Parquet file.")] = Path("scores.parquet"),
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Fetch the table of a job that scored a dataset."""
    with service(this_machine(url), key) as client:
        if (kind := client.jobs.get(job_id).type) != "score":
            raise fail(f"{job_id} is a job of type {kind}: only those of type score have a table", USAGE)
        client.jobs.download(job_id, out)
    typer.echo(f"the table is in {out}")


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
