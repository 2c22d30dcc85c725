"""Command ``snf jobs``, and the requests of jobs that its words give."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from snf_app.cli import completion
from snf_app.cli.common import ListingGroup, checked, fail
from snf_app.cli.job_tables import job_counts, print_curve, print_job, print_jobs, print_outcome
from snf_app.cli.live import live_view
from snf_app.cli.output import Force
from snf_app.cli.service import Session, command, print_deleted
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import JobList, JobRequest, JobView
from snf_runtime.errors import USAGE
from snf_worker.jobs.record import Status

TEXTS = ("dataset", "model", "preset", "device", "backbone", "against")
"""Fields and parameters that are text even where it looks like a number."""
LISTS = ("against", "shapes", "contrasts")  # parameters that are lists; their values are separated by commas


def job_request(type: str, pairs: Iterable[str], file: Path | None) -> JobRequest:
    """Return a request of a file, overridden by ``NAME=VALUE`` pairs; exit with code 2 if it is not valid."""
    fields = [name for name in JobRequest.model_fields if name not in {"type", "parameters"}]
    request: dict[str, Any] = {"type": type} if file is None else _read(file, type)
    for name, value in parse_pairs(pairs, "NAME=VALUE").items():
        if name in fields:
            request[name] = value
        else:
            request["parameters"] = {**request.get("parameters", {}), name: value}
    unknown = request.keys() - {"type", "parameters", *fields}
    if unknown:
        raise fail(f"{file}: expected the fields {', '.join(fields)} and parameters, got {min(unknown)!r}", USAGE)
    return checked(lambda: JobRequest.model_validate(request), "the request")


def parse_pairs(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` pairs into a dictionary of typed values, such as numbers and lists.

    A value that is JSON is read as JSON, any other value as text. Some parameters, such as ``model``, are always text.
    The items of a list are separated by commas.

    >>> parse_pairs(["alpha=0.01", "shapes=spot,hole", "contrasts=64", "model=7"], "--set")
    {'alpha': 0.01, 'shapes': ['spot', 'hole'], 'contrasts': [64], 'model': '7'}
    """
    values: dict[str, Any] = {}
    for name, text in split_pairs(pairs, option).items():
        read = str if name in TEXTS else _value
        if name in LISTS and not text.startswith("["):
            values[name] = [read(part) for part in text.split(",")]
        else:
            values[name] = _value(text) if name in LISTS else read(text)
    return values


def split_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Split ``NAME=VALUE`` pairs; exit with code 2 for another form."""
    texts: dict[str, str] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise fail(f"{option}: expected NAME=VALUE, got {pair!r}", USAGE)
        texts[name] = text
    return texts


def _value(text: str) -> Any:
    try:
        return _json(text)
    except ValueError:
        return text


def _json(text: str | bytes) -> Any:
    """Return the value of JSON. Raises ``ValueError``, also for ``NaN`` and ``Infinity``, which JSON does not have."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _read(file: Path, type: str) -> dict[str, Any]:
    try:
        request = _json(file.read_bytes())
    except ValueError as error:
        raise fail(f"{file}: expected JSON: {error}", USAGE) from error
    if not isinstance(request, dict) or request.get("type", type) != type:
        got = request.get("type") if isinstance(request, dict) else request
        raise fail(f"{file}: expected the request of a job of type {type}, got {got!r}", USAGE)
    if not isinstance(request.get("parameters", {}), dict):
        raise fail(f"{file}: expected parameters by name, got {request['parameters']!r}", USAGE)
    return {**request, "type": type}


CURVE_POINTS = 1000  # points of a drawn curve: far more than a terminal has columns

commands = typer.Typer(rich_markup_mode="markdown")
jobs = typer.Typer(cls=ListingGroup)
commands.add_typer(jobs, name="jobs")

JobId = Annotated[str, typer.Argument(help="Id of the job.", autocompletion=completion.jobs)]


@command(jobs, in_process=False)
def submit(
    session: Session,
    type: Annotated[JobType, typer.Argument(help="Type of the job.")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE",
            help="dataset, model, preset, promote, device or force, or any parameter of the job; lists with commas.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON file with the request, as `POST /v1/jobs` takes it; NAME=VALUE overrides it.",
        ),
    ] = None,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
) -> None:
    """Queue a job of any type and print its id, or follow it with --watch.

    For example: snf jobs submit score dataset=lots model=my-parts alpha=0.001
    """
    job = session.client.jobs.submit(job_request(type, pairs or [], file))
    if job.waits_for:
        typer.echo(f"snf: {job.waits_for}", err=True)
    if watching:
        typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job", err=True)
        watch(session, job.id)
    session.print(job, lambda job: typer.echo(job.id))


@command(jobs, "list", in_process=False, show=print_jobs)
def list_jobs(
    session: Session,
    status: Annotated[Status | None, typer.Option(help="Only jobs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Number of jobs at most.")] = 20,
) -> JobList:
    """List the newest jobs of a service: id, type, status, model, dataset and progress."""
    return session.client.jobs.list(status=None if status is None else status.value, limit=limit)


@command(jobs, in_process=False)
def show(session: Session, job_id: JobId) -> None:
    """Show a job's status, progress, parameters and times, and its result or error."""
    session.print(session.client.jobs.get(job_id), lambda job: print_job(job, session.option))


@command(jobs, in_process=False)
def watch(session: Session, job_id: JobId) -> NoReturn:
    """Show a job's progress until it ends.

    Ctrl-C stops watching, not the job.

    Exit code 3: it failed or was cancelled. Exit code 4: a scoring that could not judge every image.
    """
    with live_view(session.as_json) as observe:
        job = session.follow(job_id, observe)
    result = job.result or {}
    if not session.as_json:
        print_outcome(result, session.option)
    raise typer.Exit(job_counts(result).exit_code(fail_on_anomaly=False))


@command(jobs, in_process=False)
def metrics(
    session: Session,
    job_id: JobId,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each step.")] = False,
) -> None:
    """Draw the learning curves of a training job in the terminal, or print them as JSON or CSV.

    The drawn curves show bits/dim and reconstruction error by training step.
    """
    if as_csv:
        typer.echo(session.client.jobs.metrics_csv(job_id), nl=False)
    else:
        points = None if session.as_json else CURVE_POINTS
        session.print(session.client.jobs.metrics(job_id, points=points), print_curve)


@command(jobs, in_process=False, as_json=False)
def log(
    session: Session,
    job_id: JobId,
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, max=10_000, help="Lines at most.")] = 500,
) -> None:
    """Print the end of a job's log: the last complete lines that its processes printed."""
    typer.echo(session.client.jobs.log(job_id, tail=tail), nl=False)


@command(jobs, in_process=False, as_json=False)
def download(
    session: Session,
    job_id: JobId,
    out: Annotated[Path, typer.Option("--out", "-o", help="Table: .parquet, .csv or .jsonl.")] = Path("scores.parquet"),
    force: Force = False,
) -> None:
    """Download the table that a bulk scoring job wrote, with one row of scores for each image."""
    job = session.client.jobs.get(job_id)
    from snf_app.cli.bulk_scoring import download_table  # noqa: PLC0415 - PyArrow takes time to load

    download_table(session.client, job, out, force=force)
    typer.echo(f"the table is in {out}")


def print_status(job: JobView) -> None:
    is_stopping = job.status in {"starting", "running"} and (job.cancel_requested or job.pause_requested)
    typer.echo(f"{job.id} is {job.status}{', stopping' if is_stopping else ''}")


@command(jobs, in_process=False, show=print_status)
def cancel(session: Session, job_id: JobId) -> JobView:
    """Cancel a waiting job at once, or ask a running job to stop.

    Exit code 2: the job has ended already.
    """
    return session.client.jobs.cancel(job_id)


@command(jobs, in_process=False, show=print_status)
def pause(session: Session, job_id: JobId) -> JobView:
    """Pause a queued job at once, or a running job as soon as it has written a checkpoint.

    A running job then frees its device.
    """
    return session.client.jobs.pause(job_id)


@command(jobs, in_process=False, show=print_status)
def resume(session: Session, job_id: JobId) -> JobView:
    """Put a paused job at the head of its queue; it continues from its checkpoint."""
    return session.client.jobs.resume(job_id)


@command(jobs, in_process=False, show=print_status)
def retry(session: Session, job_id: JobId) -> JobView:
    """Queue a failed or cancelled job again as a new job, which continues from the newest checkpoint."""
    return session.client.jobs.retry(job_id)


@command(jobs, in_process=False)
def delete(
    session: Session,
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of jobs.", autocompletion=completion.jobs)],
) -> None:
    """Delete jobs that have ended, with their results and files, but not their models.

    Stops at the first error.
    """
    for job_id in job_ids:
        session.client.jobs.delete(job_id)
        session.print({"deleted": job_id}, print_deleted)
