from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.http.errors import ERROR
from snf_app.metrics.registry import ServiceMetrics
from snf_models.errors import ImageError

UNMATCHED = "unmatched"
CLIENT_LEFT = 499
"""Status in metrics and logs of a request whose caller left before the answer began."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Middleware that counts requests by route and status, and measures the time until the response begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics = scope.get("state", {}).get("metrics")
        if scope["type"] != "http" or metrics is None:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answered = False

        async def noted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not answered:
                answered = True
                _note(metrics, scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if not answered:
                _note(metrics, scope, CLIENT_LEFT, time.perf_counter() - began)
            raise
        except Exception:
            # Answered outside of this middleware, with a 500.
            if not answered:
                _note(metrics, scope, 500, time.perf_counter() - began)
            raise


def route_template(scope: Scope) -> str:
    """Return the path template of a request's route, such as ``/v1/models/{ref}``; ``unmatched`` if it has none."""
    # Static files are mounted: the scope has no route for them, only the path of the mount.
    mounted = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
    return str(getattr(scope.get("route"), "path", f"{mounted}/..." if mounted else UNMATCHED))


def _note(metrics: ServiceMetrics, scope: Scope, status: int, seconds: float) -> None:
    route = route_template(scope)
    method = scope["method"] if scope["method"] in METHODS else "other"
    metrics.observe_request(route, method, status, seconds)
    error = scope.get(ERROR)
    # The request's only image failed, so its error is that of the request.
    if isinstance(error, ImageError):
        metrics.count_image_errors([error.slug])
