from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter
from fastapi.params import Depends

from snf_app.http.query import KnownQuery

JOB_STORE_THREADS = 16
_job_store_threads: RunVar[CapacityLimiter] = RunVar("job_store_threads")

P = ParamSpec("P")
T = TypeVar("T")


def in_job_store_threads(call: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Run a blocking function in threads for the job store only: while Redis hangs, the others stay free."""

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
    """Router of complete, shared routes that refuse undeclared query parameters. Including it would copy them."""

    def __init__(self, *, dependencies: Sequence[Depends] = (), uses_job_store: bool = False, **options: Any) -> None:
        super().__init__(dependencies=[KnownQuery, *dependencies], **options)
        self._uses_job_store = uses_job_store

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; one that uses the job store and blocks runs in threads of its own."""
        if self._uses_job_store and not iscoroutinefunction(endpoint):
            endpoint = in_job_store_threads(endpoint)
        super().add_api_route(path, endpoint, **options)
