from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.access.callers import caller_of
from snf_app.http.body_pace import PacedBody, PaceLimits
from snf_app.http.shares import FairShares

RETRY_S = 2
"""Seconds after which a refused caller may try again."""


class BodyTooLarge(HTTPException):
    """413 error. An ``HTTPException``, because FastAPI replaces other errors while it reads a body."""

    def __init__(self, limit: int, advice: str = "") -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes{advice and f'; {advice}'}")


class TooMuchInFlight(HTTPException):
    """429 error for a body beyond the memory left for all bodies, or beyond this caller's share."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"the bodies of all requests in hand may take {limit} bytes, and those of one caller as much as stays free "
            f"for all others; try again in about {RETRY_S} s",
            headers={"Retry-After": str(RETRY_S)},
        )


class BodyLimit:
    """Middleware against bodies too large (413), too slow (408) or too much together (429), until answered."""

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        in_flight: int,
        pace: PaceLimits,
        streamed: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._app = app
        self._limit = limit
        self._pace = pace
        self._streamed = streamed
        self._shares = FairShares(in_flight, alone=limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application; reading its body raises an error as soon as it exceeds a limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        paced = PacedBody(receive, self._pace)
        if (scope["method"], scope["path"]) in self._streamed:
            await self._app(scope, paced, send)
            return
        caller = caller_of(scope).name
        held = 0

        async def counted() -> Message:
            nonlocal held
            message = await paced()
            arrived = len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if held + arrived > self._limit:
                raise BodyTooLarge(self._limit)
            if arrived:
                if not self._shares.take(caller, arrived):
                    raise TooMuchInFlight(self._shares.capacity)
                held += arrived
            return message

        try:
            await self._app(scope, counted, send)
        finally:  # not before the answer: images stay in memory as long
            self._shares.give_back(caller, held)


async def read_body(request: Request, limit: int, advice: str = "") -> bytes:
    """Return the whole body; raise ``BodyTooLarge``, with ``advice`` on what to do, past ``limit`` bytes."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit, advice)
        parts.append(part)
    return b"".join(parts)
