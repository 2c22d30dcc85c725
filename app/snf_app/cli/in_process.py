"""The application of the service in the process of a command, without broker, keys and sockets."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import ExitStack
from typing import Any, cast

import httpx
import typer
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from snf_app.access.permissions import SCOPE, Caller
from snf_app.http import errors
from snf_app.main import ROUTERS
from snf_app.state import open_state
from snf_worker.errors import BrokerDown
from snf_worker.jobs.store import Jobs, JobStore
from snf_worker.settings import Settings

URL = "http://this-process"
UNLIMITED = {"request_timeout_s": 7 * 86_400.0}  # settings for a user who waits for the command


class InProcessTransport(httpx.BaseTransport):
    """Transport of a ``Client`` that answers requests in this process, with the rights of an administrator."""

    def __init__(self, settings: Settings) -> None:
        logging.getLogger("snf_app").addHandler(logging.NullHandler())  # the command prints the error
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        settings = settings.model_copy(update=UNLIMITED)
        opened = open_state(settings, threading.Event(), in_process=True)
        state = self._stack.enter_context(self._portal.wrap_async_context_manager(opened))
        jobs: JobStore = state["job_store"]
        self._state = state | {"job_store": _JobsIfReachable(jobs)}
        self._app = FastAPI(openapi_url=None)
        errors.install(self._app)
        self._app.router.routes.extend(route for router in ROUTERS for route in router.routes)
        self._transport = httpx.ASGITransport(self._answer)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer of the application; raise its unexpected errors."""
        return self._portal.call(self._send, request)

    def close(self) -> None:
        """End the application; after Ctrl-C its work in progress is cancelled."""
        self._stack.__exit__(*sys.exc_info())

    async def _send(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers.copy()
        headers.pop("X-Timeout-Ms", None)
        stream = _AsyncStream(cast(httpx.SyncByteStream, request.stream))
        answer = await self._transport.handle_async_request(
            httpx.Request(request.method, request.url, headers=headers, stream=stream)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

    async def _answer(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        caller = Caller("command line", "", "admin")
        await self._app({**scope, "state": dict(self._state), SCOPE: caller}, receive, send)


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


class _JobsIfReachable:
    """The unfinished jobs of the job store, or none with a warning where no broker runs."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def mentioning(self, name: str) -> Jobs:
        try:
            return self._jobs.mentioning(name)
        except BrokerDown:
            typer.echo(f"snf: the job store does not answer; a queued job that uses {name} will fail", err=True)
            return []
