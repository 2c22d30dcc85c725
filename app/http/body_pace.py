"""Minimum transfer rate of request bodies, as a protection against slow clients."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from worker.settings import Settings


class BodyTooSlow(HTTPException):
    """Error for a request body that arrives too slowly (HTTP status 408).

    It is below the minimum rate in bytes/s, or pauses for too long.

    An ``HTTPException``, because FastAPI replaces other errors while it reads a body.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(408, detail)


@dataclass(frozen=True)
class PaceLimits:
    """Limits on how slowly a request body may arrive.

    They are a minimum rate in bytes per second, and the longest pause in seconds.

    Args:
        silence_s: Longest wait for the next bytes, in seconds.
        least_rate: Bytes a second, on average over the time of waiting past the first ``silence_s`` seconds.
    """

    silence_s: float
    least_rate: int

    @classmethod
    def of(cls, settings: Settings) -> PaceLimits:
        """Return the limits for slowly arriving request bodies, taken from the settings of the service.

        They are ``body_timeout_s`` (seconds) and ``min_body_rate`` (bytes/s).
        """
        return cls(settings.body_timeout_s, settings.min_body_rate)


class PacedBody:
    """ASGI ``receive`` function that raises an error if a request body arrives too slowly.

    The error is ``BodyTooSlow``. It is also raised if the body pauses for too long.

    Only the time in which the service waits for the client counts. A call that is cancelled continues the count where
    it stopped.
    """

    def __init__(self, receive: Receive, limits: PaceLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._arrived = 0
        self._waited = 0.0
        self._silent = 0.0
        self._complete = False

    async def __call__(self) -> Message:
        """Return the next ASGI message of the request; after the end of the body there is no time limit."""
        if self._complete:
            return await self._receive()
        limits = self._limits
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, limits.silence_s - self._silent)) as limit:
                message = await self._receive()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BodyTooSlow(
                f"nothing of the request's body arrived within {limits.silence_s:g} s; send it without long pauses"
            ) from error
        finally:
            waited = time.monotonic() - began
            self._waited += waited
            self._silent += waited
        if message["type"] == "http.request":
            arrived = len(message.get("body", b""))
            self._arrived += arrived
            self._silent = 0.0 if arrived else self._silent
            self._complete = not message.get("more_body", False)
            self._check_rate()
        else:
            self._complete = True
        return message

    def _check_rate(self) -> None:
        limits = self._limits
        expected = (self._waited - limits.silence_s) * limits.least_rate
        if not self._complete and self._arrived < expected:
            raise BodyTooSlow(
                f"expected a body of at least {limits.least_rate} bytes/s, got {self._arrived} bytes in "
                f"{self._waited:.0f} s; send it faster"
            )
