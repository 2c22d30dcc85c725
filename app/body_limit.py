"""A limit on request bodies that counts the bytes that arrive and trusts no declared size."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyTooLarge(HTTPException):
    """A body went past the limit; an `HTTPException`, because FastAPI hides other errors of parsing."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes")


class BodyLimit:
    """ASGI middleware: reading past `limit` bytes of a body raises `BodyTooLarge` where the body is read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise BodyTooLarge(self._limit)
            return message

        await self._app(scope, counted, send)
