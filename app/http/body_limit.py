"""Limits on request bodies that count the bytes that arrive and trust no declared size."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.callers import caller_of
from app.http.body_pace import PacedBody, PaceLimits
from app.http.shares import Shares

RETRY_S = 2
"""Time after which a caller may try again: others' bodies are worked off in about that."""


class BodyTooLarge(HTTPException):
    """A body went past its limit; an `HTTPException`, because FastAPI hides other errors of parsing."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes")


class TooMuchInFlight(HTTPException):
    """A body for which the service, or the caller's share of it, has no room beside the others that it holds."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"the bodies of all requests in hand may take {limit} bytes, and those of one caller as much as stays free "
            f"for all others; try again in about {RETRY_S} s",
            headers={"Retry-After": str(RETRY_S)},
        )


class BodyLimit:
    """ASGI middleware: reading past `limit` bytes of one body, past the caller's share of `in_flight`, or of a body
    that arrives too slowly, raises where it is read.

    A body counts until its request is answered, because its images are held as long. Calls in `streamed` (method,
    path) hold nothing of theirs and have limits of their own on the size.
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
        self._shares = Shares(in_flight, alone=limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; raises `BodyTooLarge` as soon as it is past `limit` bytes."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    return b"".join(parts)
