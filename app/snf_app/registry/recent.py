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
    """Cache of a slow result for 50 times its duration, 5 s at most: callers without a key cannot slow down scoring."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._result: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """Return the cached result, or compute it; on one event loop only."""
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
