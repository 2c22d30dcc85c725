# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""HTTP connection of commands to a running service, with errors turned into messages and exit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from snf_app.cli.common import fail
from snf_app.cli.job_tables import ENDED_WITH_RESULT
from snf_runtime.errors import FAILED, USAGE

if TYPE_CHECKING:
    from snf_client import Client, ClientError
    from snf_client.schemas.jobs import JobView


@contextmanager
def service(url: str | None, key: str | None) -> Iterator[Client]:
    """Yield a client of a service; a failed call ends the command, with code 2 for wrong usage, else 3."""
    from snf_client import Client, ClientError, ProblemError, Retries
    from snf_client.images import FilesProblem

    try:
        client = Client(url, key, retries=Retries(on_retry=_report_retry))
    except ValueError as error:
        raise fail(str(error), USAGE) from error
    with client:
        try:
            yield client
        except ClientError as error:
            is_usage = isinstance(error, ProblemError) and error.status < 500 and error.status != 429
            raise fail(_message(error), USAGE if is_usage else FAILED) from error
        except FilesProblem as error:
            raise fail(str(error), USAGE) from error
        except OSError as error:
            if error.filename is None:  # a closed stdout, not a file to send
                raise
            raise fail(f"{error.filename}: {error.strerror}", USAGE) from error


def service_url(url: str | None) -> str:
    """Return the given URL, or else the address of the service on this machine."""
    if url:
        return url
    from snf_app.cli.common import read_settings
    from snf_worker.launch.launcher import address

    return address(read_settings())


def follow_job(client: Client, job_id: str, observe: Callable[[dict[str, Any]], None]) -> JobView:
    """Report a job's events until it ends, and return it; exit with code 3 if it has no result."""
    for event in client.jobs.events(job_id):
        observe({"event": event.event, **event.data})
    job = client.jobs.get(job_id)
    if job.status not in ENDED_WITH_RESULT:
        raise fail(f"job {job_id} {job.status}{': ' + job.error['detail'] if job.error else ''}", FAILED)
    return job


def _message(error: ClientError) -> str:
    """Return the text of an error, with the wrong parts of the request where the text does not name them."""
    from snf_client import ProblemError

    text = str(error)
    if not isinstance(error, ProblemError):
        return text
    parts = [f"{part.pointer}: {part.detail}" for part in error.errors if part.detail not in text]
    return "; ".join([text, *parts])


def _report_retry(error: ClientError, seconds: float) -> None:
    typer.echo(f"snf: {error}; trying again in {seconds:.1f} s", err=True)
