"""Limits on request bodies that count the bytes that arrive and trust no declared size."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_S = 2
"""Time after which a caller may try again: others' bodies are worked off in about that."""


class BodyTooLarge(HTTPException):
    """A body went past its limit; an `HTTPException`, because FastAPI hides other errors of parsing."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes")


class TooMuchInFlight(HTTPException):
    """The bodies of all requests together went past what the service holds."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"the bodies of all requests in hand are larger than {limit} bytes; try again in about {RETRY_S} s",
            headers={"Retry-After": str(RETRY_S)},
        )


class BodyLimit:
    """ASGI middleware: reading past `limit` bytes of one body, or past `in_flight` of all, raises where it is read.

    A body counts until its request is answered, because its images are held as long. Calls in `streamed` (method,
    path) hold nothing of theirs and have limits of their own.
    """

    def __init__(
        self, app: ASGIApp, limit: int, in_flight: int, streamed: frozenset[tuple[str, str]] = frozenset()
    ) -> None:
        self._app = app
        self._limit = limit
        self._in_flight = in_flight
        self._streamed = streamed
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) in self._streamed:
            await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                arrived = len(message.get("body", b""))
                seen += arrived
                self._held += arrived
                if seen > self._limit:
                    raise BodyTooLarge(self._limit)
                if self._held > self._in_flight:
                    raise TooMuchInFlight(self._in_flight)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= seen


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
