"""Following a job of a running service, across lost connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import typer

from app.commands.common import SERVICE, USAGE, fail
from app.commands.remote import Remote, describe

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
MOST_LOSSES = 12
"""Connections lost in a row, without an event, before the command gives up: about five minutes."""


def follow(remote: Remote, job_id: str) -> Iterator[dict[str, Any]]:
    """The events of a job from its first one to `end`, each once.

    A call that is refused, or a service that does not answer at first or stays away, ends the command with a message.
    """
    last_id = ""
    losses = 0
    while True:
        try:
            with remote.events(f"/v1/jobs/{job_id}/events", last_id) as source:
                refusal = _refusal(source.response)
                if refusal is None:
                    for event in source.iter_sse():
                        if not event.data:
                            continue
                        last_id, losses = event.id, 0
                        yield {"event": event.event, **event.json()}
                        if event.event == "end":
                            return
                    refusal = "the service ended the stream"
        except httpx.HTTPError as error:
            refusal = str(error) or type(error).__name__
        losses += 1
        if not last_id or losses > MOST_LOSSES:
            raise fail(f"the events of job {job_id} cannot be followed: {refusal}", SERVICE)
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (losses - 1))
        typer.echo(f"snf: {refusal}; trying again in {pause:g} s", err=True)
        time.sleep(pause)


def _refusal(response: httpx.Response) -> str | None:
    """Why there is no stream for now; ends the command where coming back is no use."""
    if response.status_code < 400:
        return None
    response.read()
    if response.status_code < 500 and response.status_code != 429:
        raise fail(describe(response), USAGE)
    return describe(response)
