"""Command ``snf jobs``: list, follow and control the jobs of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import completion
from app.cli.common import USAGE, Json, Key, ServiceUrl, fail, print_deleted, print_response
from app.cli.job_tables import is_unfit, job_counts, outcome, print_curve, print_job, print_jobs
from app.cli.live import live_view
from app.cli.published import print_published
from app.cli.remote import follow_job, service, service_url
from worker.jobs.record import Status

if TYPE_CHECKING:
    from snf_client.schemas import JobView

CURVE_POINTS = 1000
"""Points of a drawn curve: far more than a terminal has columns."""

jobs = typer.Typer(help="List, follow and control the jobs of a running service.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Id of the job.", show_default=False, autocompletion=completion.jobs)]


@jobs.command("list")
def list_jobs(
    status: Annotated[Status | None, typer.Option(help="Only jobs with this status.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Number of jobs at most.")] = 20,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs of a service: id, type, status, model, dataset and progress."""
    with service(service_url(url), key) as client:
        page = client.jobs.list(status=None if status is None else status.value, limit=limit)
    if as_json:
        print_response(page)
    else:
        print_jobs(page)


@jobs.command()
def show(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job's status, progress, parameters and times, and its result or error."""
    with service(service_url(url), key) as client:
        job = client.jobs.get(job_id)
    if as_json:
        print_response(job)
    else:
        print_job(job)


@jobs.command()
def watch(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job's progress until it ends. Ctrl-C stops watching, not the job.

    Exit code 3: it failed or was cancelled. Exit code 4: a scoring that could not judge every image.
    """
    with service(service_url(url), key) as client:
        with live_view(as_json) as observe:
            job = follow_job(client, job_id, observe)
        if not as_json:
            print_published(outcome(job), unfit=is_unfit(job))
    job_counts(job).exit(fail_on_anomaly=False)


@jobs.command()
def metrics(
    job_id: JobId,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each step.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Draw the learning curves of a training job (bits/dim by step) in the terminal, or print them as JSON or CSV."""
    with service(service_url(url), key) as client:
        if as_csv:
            typer.echo(client.jobs.metrics_csv(job_id), nl=False)
        elif as_json:
            print_response(client.jobs.metrics(job_id))
        else:
            print_curve(client.jobs.metrics(job_id, points=CURVE_POINTS))


@jobs.command()
def log(
    job_id: JobId,
    tail: Annotated[int, typer.Option(min=1, max=2**20, help="Bytes at most.")] = 64 * 1024,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Print the end of a job's log: the last complete lines that its processes printed."""
    with service(service_url(url), key) as client:
        typer.echo(client.jobs.log(job_id, tail=tail), nl=False)


@jobs.command()
def download(
    job_id: JobId,
    out: Annotated[Path, typer.Option("--out", "-o", help="The Parquet file.")] = Path("scores.parquet"),
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Download the Parquet file that a bulk scoring job wrote, with one row of scores for each image."""
    with service(service_url(url), key) as client:
        if (kind := client.jobs.get(job_id).type) != "score":
            raise fail(f"expected a job of type score, which has a table; {job_id} is of type {kind}", USAGE)
        client.jobs.download(job_id, out)
    typer.echo(f"the table is in {out}")


@jobs.command()
def cancel(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a waiting job at once, or ask a running job to stop. Exit code 2: it has ended already."""
    with service(service_url(url), key) as client:
        _print_status(client.jobs.cancel(job_id), as_json)


@jobs.command()
def pause(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Pause a queued job at once. A running job first writes a checkpoint, then frees its device."""
    with service(service_url(url), key) as client:
        _print_status(client.jobs.pause(job_id), as_json)


@jobs.command()
def resume(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Put a paused job at the head of its queue; it continues from its checkpoint."""
    with service(service_url(url), key) as client:
        _print_status(client.jobs.resume(job_id), as_json)


@jobs.command()
def retry(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Queue a failed or cancelled job again as a new job, which continues from the newest checkpoint."""
    with service(service_url(url), key) as client:
        _print_status(client.jobs.retry(job_id), as_json)


def _print_status(job: JobView, as_json: bool) -> None:
    if as_json:
        print_response(job)
        return
    is_stopping = job.status in {"starting", "running"} and (job.cancel_requested or job.pause_requested)
    typer.echo(f"{job.id} is {job.status}{', stopping' if is_stopping else ''}")


@jobs.command()
def delete(
    job_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID...", help="Ids of jobs.", show_default=False, autocompletion=completion.jobs),
    ],
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Delete jobs that have ended, with their results and files; their models stay. Stops at the first error."""
    with service(service_url(url), key) as client:
        for job_id in job_ids:
            client.jobs.delete(job_id)
            print_deleted(job_id, as_json=as_json)
