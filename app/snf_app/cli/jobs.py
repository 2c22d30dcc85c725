from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    ListingGroup,
    ServiceUrl,
    fail,
    fail_validation,
    print_deleted,
    print_response,
    print_result,
    url_option,
)
from snf_app.cli.job_tables import is_unfit, job_counts, outcome, print_curve, print_job, print_jobs, print_published
from snf_app.cli.live import live_view
from snf_app.cli.output import Force
from snf_app.cli.service import follow_job, service, service_url
from snf_client import Client
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import JobRequest, JobView
from snf_runtime.errors import USAGE
from snf_worker.jobs.record import Status

TEXTS = ("dataset", "model", "preset", "device", "backbone", "against")
"""Fields and parameters that are text even where it looks like a number."""
LISTS = ("against", "shapes", "contrasts")
"""Parameters that are lists; their values are separated by commas."""


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
    try:
        return JobRequest.model_validate(request)
    except ValidationError as error:
        raise fail_validation(error, "the request") from error


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


CURVE_POINTS = 1000
"""Points of a drawn curve: far more than a terminal has columns."""

commands = typer.Typer(rich_markup_mode="markdown")
jobs = typer.Typer(cls=ListingGroup)
commands.add_typer(jobs, name="jobs")

JobId = Annotated[str, typer.Argument(help="Id of the job.", show_default=False, autocompletion=completion.jobs)]


@jobs.command()
def submit(
    type: Annotated[JobType, typer.Argument(help="Type of the job.", show_default=False)],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE",
            help="dataset, model, preset, promote, device or force, or any parameter of the job; lists with commas.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            exists=True,
            dir_okay=False,
            help="JSON file with the request, as `POST /v1/jobs` takes it; NAME=VALUE overrides it.",
            show_default=False,
        ),
    ] = None,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Queue a job of any type and print its id, or follow it with --watch.

    For example: snf jobs submit score dataset=lots model=my-parts alpha=0.001
    """
    request = job_request(type, pairs or [], file)
    with service(service_url(url), key) as client:
        job = client.jobs.submit(request)
        if job.waits_for:
            typer.echo(f"snf: {job.waits_for}", err=True)
        if watching:
            typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job", err=True)
            _watch(client, job.id, url, as_json)
        else:
            print_result(job, as_json, lambda job: typer.echo(job.id))


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
    print_result(page, as_json, print_jobs)


@jobs.command()
def show(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job's status, progress, parameters and times, and its result or error."""
    with service(service_url(url), key) as client:
        job = client.jobs.get(job_id)
    print_result(job, as_json, lambda job: print_job(job, url_option(url)))


@jobs.command()
def watch(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job's progress until it ends.

    Ctrl-C stops watching, not the job.

    Exit code 3: it failed or was cancelled. Exit code 4: a scoring that could not judge every image.
    """
    with service(service_url(url), key) as client:
        _watch(client, job_id, url, as_json)


@jobs.command()
def metrics(
    job_id: JobId,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each step.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Draw the learning curves of a training job in the terminal, or print them as JSON or CSV.

    The drawn curves show bits/dim and reconstruction error by training step.
    """
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
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, max=10_000, help="Lines at most.")] = 500,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Print the end of a job's log: the last complete lines that its processes printed."""
    with service(service_url(url), key) as client:
        typer.echo(client.jobs.log(job_id, tail=tail), nl=False)


@jobs.command()
def download(
    job_id: JobId,
    out: Annotated[Path, typer.Option("--out", "-o", help="Table: .parquet, .csv or .jsonl.")] = Path("scores.parquet"),
    force: Force = False,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Download the table that a bulk scoring job wrote, with one row of scores for each image."""
    with service(service_url(url), key) as client:
        from snf_app.cli.bulk_scoring import download_table  # noqa: PLC0415 - PyArrow takes time to load

        download_table(client, client.jobs.get(job_id), out, force=force)
    typer.echo(f"the table is in {out}")


@jobs.command()
def cancel(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a waiting job at once, or ask a running job to stop.

    Exit code 2: the job has ended already.
    """
    with service(service_url(url), key) as client:
        _print_status(client.jobs.cancel(job_id), as_json)


@jobs.command()
def pause(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Pause a queued job at once, or a running job as soon as it has written a checkpoint.

    A running job then frees its device.
    """
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


def _watch(client: Client, job_id: str, url: str | None, as_json: bool) -> None:
    """Follow a job until it ends, print its result, and end the command with the exit code of its counts."""
    with live_view(as_json) as observe:
        job = follow_job(client, job_id, observe)
    if not as_json:
        print_published(outcome(job, url_option(url)), unfit=is_unfit(job))
    raise typer.Exit(job_counts(job).exit_code(fail_on_anomaly=False))


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
    """Delete jobs that have ended, with their results and files, but not their models.

    Stops at the first error.
    """
    with service(service_url(url), key) as client:
        for job_id in job_ids:
            client.jobs.delete(job_id)
            print_deleted(job_id, as_json=as_json)
