"""Limits on the size and memory use of request bodies, enforced while the bytes arrive."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.callers import caller_of
from app.http.body_pace import PacedBody, PaceLimits
from app.http.shares import FairShares

RETRY_S = 2
"""Seconds after which a refused caller may try again."""


class BodyTooLarge(HTTPException):
    """Error for a request body that is larger than its limit (HTTP status 413).

    An ``HTTPException``, because FastAPI replaces other errors while it reads a body.

    Args:
        limit: The limit.
        advice: What to do about it, for the error text.
    """

    def __init__(self, limit: int, advice: str = "") -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes{advice and f'; {advice}'}")


class TooMuchInFlight(HTTPException):
    """Error (HTTP status 429) for a request body that exceeds the memory currently free for request bodies.

    It exceeds the memory left for the bodies of all requests, or this caller's share.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"the bodies of all requests in hand may take {limit} bytes, and those of one caller as much as stays free "
            f"for all others; try again in about {RETRY_S} s",
            headers={"Retry-After": str(RETRY_S)},
        )


class BodyLimit:
    """ASGI middleware that refuses request bodies that are too large, too slow or use too much memory.

    The errors are 413 for the size, 408 for the transfer rate, and 429 for the memory of all bodies.

    Past a limit, reading the body raises an error. A body counts towards the total until its request is answered,
    because its images stay in memory as long.

    Args:
        app: Application behind the middleware.
        limit: Most bytes of one body.
        in_flight: Most bytes of all bodies together, shared among the callers.
        pace: Minimum transfer rate of a body.
        streamed: Method and path of requests whose bodies are written to disk, which have size limits of their own.
    """

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
        finally:
            self._shares.give_back(caller, held)


async def read_body(request: Request, limit: int, advice: str = "") -> bytes:
    """Return the whole body of a request as bytes.

    Raises ``BodyTooLarge`` if it has more than ``limit`` bytes.

    Args:
        request: The request.
        limit: Most bytes of its body.
        advice: What to do about a larger body, for the error text.
    """
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit, advice)
        parts.append(part)
    return b"".join(parts)
