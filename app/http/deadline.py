"""Deadlines of requests: a request that takes too long is cancelled and answered with 504."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Header

from app.http.errors import Problem

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
    """Adjustable time limit of a request in progress.

    Args:
        limit: The limit as asyncio counts it.
        seconds: The limit in seconds.
        asked: Whether the client asked for it.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float, asked: bool) -> None:
        self.seconds = seconds
        self._limit = limit
        self._asked = asked

    def extend(self, seconds: float) -> None:
        """Extend the request's time limit by ``seconds``, for work that is known to take long.

        Nothing changes if the client itself set the limit.
        """
        when = self._limit.when()
        if not self._asked and when is not None:
            self.seconds += seconds
            self._limit.reschedule(when + seconds)

    def ask(self, seconds: float) -> None:
        """Set the request's time limit to the one that the client asks for in the request body.

        It counts from the arrival of the request. If the client asked for a shorter limit before, that limit stays.

        Args:
            seconds: The limit in seconds.
        """
        when = self._limit.when()
        if when is not None and not (self._asked and seconds > self.seconds):
            self._limit.reschedule(when - self.seconds + seconds)
            self.seconds, self._asked = seconds, True


@asynccontextmanager
async def deadline(timeout_ms: int | None, default_s: float) -> AsyncIterator[RequestDeadline]:
    """Context manager that cancels the code in its block when the time limit of a request has passed.

    It raises an error with status 504 then.

    Args:
        timeout_ms: Time that the client asked for, in milliseconds; None for the default.
        default_s: Default of the service, in seconds.
    """
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
