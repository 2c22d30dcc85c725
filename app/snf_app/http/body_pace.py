from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from snf_worker.settings import Settings


class BodyTooSlow(HTTPException):
    """408 error. An ``HTTPException``, because FastAPI replaces other errors while it reads a body."""

    def __init__(self, detail: str) -> None:
        super().__init__(408, detail)


@dataclass(frozen=True)
class PaceLimits:
    """Limits on how slowly a request body may arrive."""

    silence_s: float  # longest wait for the next bytes
    least_rate: int  # bytes/s, on average over the waiting past the first ``silence_s``

    @classmethod
    def of(cls, settings: Settings) -> PaceLimits:
        return cls(settings.body_timeout_s, settings.min_body_rate)


class PacedBody:
    """ASGI ``receive`` that raises ``BodyTooSlow``; only the time of waiting for the client counts."""

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
