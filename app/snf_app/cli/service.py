"""Calls of commands: to a running service, or to the same application in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer

from snf_app.cli.common import error_messages, fail, read_settings
from snf_app.cli.job_tables import ENDED_WITH_RESULT
from snf_client import Client, ClientError, ProblemError, Retries
from snf_client.images import FilesProblem
from snf_client.schemas.jobs import JobView
from snf_runtime.errors import FAILED, USAGE
from snf_worker.settings import address


@contextmanager
def service(url: str | None, key: str | None) -> Iterator[Client]:
    """Yield a client of a service, without ``url`` of one in this process, of which a job store is not needed.

    A failed call ends the command, with code 2 for wrong usage, else 3.
    """
    with error_messages(), _client(url, key) as client:
        try:
            yield client
        except ClientError as error:
            raise fail(_message(error), USAGE if _is_usage(error, in_process=not url) else FAILED) from error
        except FilesProblem as error:
            raise fail(str(error), USAGE) from error
        except OSError as error:
            if error.filename is None or not url:  # a closed stdout, or a file of home
                raise
            raise fail(f"{error.filename}: {error.strerror}", USAGE) from error


def _client(url: str | None, key: str | None) -> Client:
    if not url:
        settings = read_settings()
        # FastAPI and what the endpoints need take a second, which commands of a service do without.
        here = import_module("snf_app.cli.in_process")
        return Client(here.URL, transport=here.InProcessTransport(settings), retries=Retries(attempts=1))
    try:
        return Client(url, key, retries=Retries(on_retry=_report_retry))
    except ValueError as error:
        raise fail(str(error), USAGE) from error


def service_url(url: str | None) -> str:
    """Return the given URL, or else the address of the service on this machine."""
    return url or address(read_settings())


def follow_job(client: Client, job_id: str, observe: Callable[[dict[str, Any]], None]) -> JobView:
    """Report a job's events until it ends, and return it; exit with code 3 if it has no result."""
    for event in client.jobs.events(job_id):
        observe({"event": event.event, **event.data})
    job = client.jobs.get(job_id)
    if job.status not in ENDED_WITH_RESULT:
        raise fail(f"job {job_id} {job.status}{': ' + job.error['detail'] if job.error else ''}", FAILED)
    return job


def _is_usage(error: ClientError, *, in_process: bool) -> bool:
    if not isinstance(error, ProblemError):
        return False
    return (error.status < 500 and error.status != 429) or (in_process and error.type == "storage-read-only")


def _message(error: ClientError) -> str:
    """Return the text of an error, with the wrong parts of the request where the text does not name them."""
    text = str(error)
    if not isinstance(error, ProblemError):
        return text
    parts = [f"{part.pointer}: {part.detail}" for part in error.errors if part.detail not in text]
    return "; ".join([text, *parts])


def _report_retry(error: ClientError, seconds: float) -> None:
    typer.echo(f"snf: {error}; trying again in {seconds:.1f} s", err=True)
