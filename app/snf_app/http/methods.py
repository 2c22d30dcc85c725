"""Support for HEAD requests, and the list of methods that a path allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class HeadAsGet:
    """Middleware that answers HEAD like GET without the body; no file is read, and a stream ends after its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application; of the answer to HEAD send the headers alone."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered, received = asyncio.Event(), False

        async def receive_then_leave() -> Message:
            nonlocal received
            if not received:
                received = True
                return await receive()
            # As a client that has left: streams end.
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The server sends no body for this method, whatever length the headers say.
                scope["method"] = "HEAD"
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()

        # In place: middleware around this one reads what routing and endpoints write into the scope.
        scope["method"] = "GET"
        # Files are then named in a message, in place of being read.
        scope["extensions"] = {**scope.get("extensions", {}), "http.response.pathsend": {}}
        try:
            await self._app(scope, receive_then_leave, send_headers)
        finally:
            scope["method"] = "HEAD"


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> str:
    """Return the ``Allow`` header of a path; ``/v1/jobs/estimate`` is not an id of ``/v1/jobs/{job_id}``."""
    root = scope.get("app_root_path", scope.get("root_path", ""))
    found: set[str] = set()
    literal: set[str] = set()
    for route in routes:
        for method in METHODS:
            # Matching writes into the scope of some routes.
            match, _ = route.matches({**scope, "root_path": root, "method": method})
            if match is Match.FULL and (method == "GET" or not isinstance(route, Mount)):
                methods = {"GET", "HEAD"} if method == "GET" else {method}
                found |= methods
                if isinstance(route, Route) and not route.param_convertors:
                    literal |= methods
    return ", ".join(sorted(literal or found))
