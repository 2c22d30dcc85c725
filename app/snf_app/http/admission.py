"""Access of requests to shared parts of the service: fair shares, deadlines and clients that have left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Header
from starlette.requests import ClientDisconnect, Request

from snf_app.http.errors import Problem
from snf_client.schemas.base import MAX_TIMEOUT_MS


class FairShares:
    """Capacity of which a caller may hold one unit more than stays free, or ``alone`` while no other holds any."""

    def __init__(self, capacity: int, alone: int = 0) -> None:
        self.capacity = capacity
        self._alone = min(alone, capacity)
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._free = capacity

    @property
    def free(self) -> int:
        return self._free

    def held(self, caller: str) -> int:
        return self._held.get(caller, 0)

    def take(self, caller: str, amount: int = 1) -> bool:
        """Reserve units if the caller's fair share allows it, in constant time and from any thread."""
        _check(amount)
        with self._lock:
            held = self.held(caller) + amount
            free = self._free - amount
            # The first caller can get half of the capacity, the next half of the rest, and so on.
            no_others = held + free == self.capacity
            if free < 0 or held > max(free + 1, self._alone if no_others else 0):
                return amount == 0
            self._set(caller, held, free)
            return True

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Release units; raise ``ValueError`` if the caller holds fewer than ``amount``."""
        _check(amount)
        with self._lock:
            held = self.held(caller) - amount
            if held < 0:
                raise ValueError(f"expected at most {held + amount} units to come back from {caller!r}, got {amount}")
            self._set(caller, held, self._free + amount)

    def _set(self, caller: str, held: int, free: int) -> None:
        self._free = free
        if held:
            self._held[caller] = held
        else:
            self._held.pop(caller, None)


def _check(amount: int) -> None:
    if amount < 0:
        raise ValueError(f"expected an amount of 0 or more units, got {amount}")


TimeoutMs = Annotated[
    int | None,
    Header(
        alias="X-Timeout-Ms",
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="Deadline of this request in milliseconds.",
    ),
]


class RequestDeadline:
    """Time limit of a request, ``asked`` for by its client or the default, which can be moved."""

    def __init__(self, limit: asyncio.Timeout, seconds: float, asked: bool) -> None:
        self.seconds = seconds
        self._limit = limit
        self._asked = asked

    def extend(self, seconds: float) -> None:
        """Extend the limit for work that is known to take long, unless the client set the limit."""
        when = self._limit.when()
        if not self._asked and when is not None:
            self.seconds += seconds
            self._limit.reschedule(when + seconds)

    def ask(self, seconds: float) -> None:
        """Set the limit of the request body, from the arrival on; a shorter one asked for before stays."""
        when = self._limit.when()
        if when is not None and not (self._asked and seconds > self.seconds):
            self._limit.reschedule(when - self.seconds + seconds)
            self.seconds, self._asked = seconds, True


@asynccontextmanager
async def deadline(timeout_ms: int | None, default_s: float) -> AsyncIterator[RequestDeadline]:
    """Cancel the block and raise 504 at the time limit, which is ``default_s`` unless the client gave one."""
    seconds = default_s if timeout_ms is None else timeout_ms / 1000
    try:
        async with asyncio.timeout(seconds) as limit:
            current = RequestDeadline(limit, seconds, timeout_ms is not None)
            yield current
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise Problem(
            504,
            "deadline-exceeded",
            "The deadline passed",
            f"the work took longer than {current.seconds:g} s and was cancelled; send fewer images or allow more time",
        ) from error


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel the block and raise ``ClientDisconnect`` if the client leaves; the body must have been read."""
    try:
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(_expire_at_disconnect(request, limit))
            try:
                yield
            finally:
                watch.cancel()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ClientDisconnect from error


async def _expire_at_disconnect(request: Request, limit: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
    limit.reschedule(asyncio.get_running_loop().time())
