"""Short-lived cache for results that are slow to compute, shared by all callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SHARE = 0.02
"""Share of the time that is spent on computing a result, however many callers ask for it."""
MAX_AGE_S = 5.0
"""Longest use of a result in seconds, even if computing it takes a larger share of the time."""


class Recent(Generic[T]):
    """Short-lived cache of the result of a slow function.

    The function runs in a thread, and all callers share its result.

    A result that took 2 ms is used for 0.1 s, so that callers without a key cannot slow down scoring. None is used for
    more than 5 s.

    Args:
        compute: The function, which may read the disk.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._result: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """Return the cached result, or compute it if it is too old.

        An exception of the function is raised here too. To be called on one event loop only.
        """
        if self._result is None or (self._result.done() and time.monotonic() >= self._until):
            self._result = asyncio.create_task(asyncio.to_thread(self._computed))
        # Shielded: a caller that leaves must not cancel what others wait for.
        return await asyncio.shield(self._result)

    def _computed(self) -> T:
        # In the thread: the wait for a free one does not make a result expensive.
        began = time.monotonic()
        try:
            return self._compute()
        finally:
            ended = time.monotonic()
            self._until = ended + min((ended - began) / SHARE, MAX_AGE_S)
