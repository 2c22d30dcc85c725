"""Deadlines of requests: a request that takes too long is cancelled and answered with 504."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Header

from snf_app.http.errors import Problem

MAX_TIMEOUT_MS = 600_000

TimeoutMs = Annotated[
    int | None,
    Header(
        alias="X-Timeout-Ms",
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="Deadline of this request in milliseconds.",
    ),
]


class RequestDeadline:
    """Time limit of a request, ``asked`` for by its client or the default, which can be moved."""

    def __init__(self, limit: asyncio.Timeout, seconds: float, asked: bool) -> None:
        self.seconds = seconds
        self._limit = limit
        self._asked = asked

    def extend(self, seconds: float) -> None:
        """Extend the limit for work that is known to take long, unless the client set the limit."""
        when = self._limit.when()
        if not self._asked and when is not None:
            self.seconds += seconds
            self._limit.reschedule(when + seconds)

    def ask(self, seconds: float) -> None:
        """Set the limit of the request body, from the arrival on; a shorter one asked for before stays."""
        when = self._limit.when()
        if when is not None and not (self._asked and seconds > self.seconds):
            self._limit.reschedule(when - self.seconds + seconds)
            self.seconds, self._asked = seconds, True


@asynccontextmanager
async def deadline(timeout_ms: int | None, default_s: float) -> AsyncIterator[RequestDeadline]:
    """Cancel the block and raise 504 at the time limit, which is ``default_s`` unless the client gave one."""
    seconds = default_s if timeout_ms is None else timeout_ms / 1000
    try:
        async with asyncio.timeout(seconds) as limit:
            current = RequestDeadline(limit, seconds, timeout_ms is not None)
            yield current
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise Problem(
            504,
            "deadline-exceeded",
            "The deadline passed",
            f"the work took longer than {current.seconds:g} s and was cancelled; send fewer images or allow more time",
        ) from error
