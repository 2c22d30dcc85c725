"""Routers of the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter
from fastapi.params import Depends

from app.http.query import KnownQuery

JOB_STORE_THREADS = 16
_job_store_threads: RunVar[CapacityLimiter] = RunVar("job_store_threads")

P = ParamSpec("P")
T = TypeVar("T")


def in_job_store_threads(call: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Return a coroutine function that runs a blocking function in threads that only calls of the job store use.

    While Redis hangs, such calls hold their threads for seconds. The framework's other threads stay free.
    """

    @wraps(call)
    async def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        try:
            limiter = _job_store_threads.get()
        except LookupError:
            limiter = CapacityLimiter(JOB_STORE_THREADS)
            _job_store_threads.set(limiter)
        return await to_thread.run_sync(partial(call, *arguments, **keywords), limiter=limiter)

    return run


class Router(APIRouter):
    """A router whose routes refuse query parameters that they do not declare.

    Its routes are complete, and all applications of a process share them: an application takes them as they are, and
    its ``dependency_overrides`` do not reach them. Do not include the router anywhere, which builds each route anew.

    ``uses_job_store`` is for endpoints that block on the job store.
    """

    def __init__(self, *, dependencies: Sequence[Depends] = (), uses_job_store: bool = False, **options: Any) -> None:
        super().__init__(dependencies=[KnownQuery, *dependencies], **options)
        self._uses_job_store = uses_job_store

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; one that uses the job store and blocks runs in threads of its own."""
        if self._uses_job_store and not iscoroutinefunction(endpoint):
            endpoint = in_job_store_threads(endpoint)
        super().add_api_route(path, endpoint, **options)
