# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""A running service, for commands with `--url`: its errors are messages and exit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from app.cli.common import SERVICE, USAGE, fail

if TYPE_CHECKING:
    from app.jobs.schemas import JobView
    from snf_client import Client, ClientError


@contextmanager
def service(url: str | None, key: str | None) -> Iterator[Client]:
    """A client of the service at `url`; a call that is refused or not answered ends the command with a message."""
    from snf_client import Client, ClientError, ProblemError, Retries

    try:
        client = Client(url, key, retries=Retries(told=_tell))
    except ValueError as error:
        raise fail(str(error), USAGE) from error
    with client:
        try:
            yield client
        except ClientError as error:
            usage = isinstance(error, ProblemError) and error.status < 500 and error.status != 429
            raise fail(str(error), USAGE if usage else SERVICE) from error
        except OSError as error:
            if error.filename is None:  # stdout that was closed, not a file that was to be sent
                raise
            raise fail(f"{error.filename}: {error.strerror}", USAGE) from error


def this_machine(url: str | None) -> str:
    """The address that was given, else that of the service of this machine."""
    if url:
        return url
    from app.cli.common import settings
    from worker.launch.launcher import address

    return address(settings())


def followed(client: Client, job_id: str, observe: Callable[[dict[str, Any]], None]) -> JobView:
    """A job that has succeeded, after all its events were observed; any other end ends the command."""
    for event in client.jobs.events(job_id):
        observe({"event": event.event, **event.data})
    job = client.jobs.get(job_id)
    if job.status != "succeeded":
        raise fail(f"job {job_id} {job.status}{': ' + job.error['detail'] if job.error else ''}", SERVICE)
    return job


def _tell(error: ClientError, seconds: float) -> None:
    typer.echo(f"snf: {error}; trying again in {seconds:.1f} s", err=True)
