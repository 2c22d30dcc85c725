"""Limits on a request: fair shares of a capacity, deadlines, clients that leave, and the size and speed of bodies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.access.permissions import caller_of
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

    @contextmanager
    def slot(self, caller: str, slug: str, what: str, retry_s: int) -> Iterator[None]:
        """Hold one unit during the block; raise a 429 ``Problem`` if the caller's fair share does not allow it."""
        if not self.take(caller):
            share = "one caller may have at most as many as stay free for all others"
            detail = (
                f"{self.capacity - self._free} of {self.capacity} {what}, and {share}; end some, or try again later"
            )
            raise Problem(slug, detail, retry_s=retry_s)
        try:
            yield
        finally:
            self.give_back(caller)

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
            "deadline-exceeded",
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


@dataclass(frozen=True)
class MinUploadRate:
    """Limits on how slowly the body of a request may arrive."""

    silence_s: float  # longest wait for the next bytes
    min_rate: int  # bytes/s, on average over the waiting past the first ``silence_s``


class PacedBody:
    """ASGI ``receive`` that raises a 408 error for a slow body; only the time of waiting for the client counts."""

    def __init__(self, receive: Receive, limits: MinUploadRate) -> None:
        self._receive = receive
        self._limits = limits
        self._arrived = 0
        self._waited = 0.0
        self._silent = 0.0
        self._complete = False

    async def __call__(self) -> Message:
        """Return the next ASGI message of the request; after the end of the body there is no time limit."""
        if self._complete:
            return await self._receive()
        limits = self._limits
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, limits.silence_s - self._silent)) as limit:
                message = await self._receive()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HTTPException(
                408, f"nothing of the request's body arrived within {limits.silence_s:g} s; send it without long pauses"
            ) from error
        finally:
            waited = time.monotonic() - began
            self._waited += waited
            self._silent += waited
        if message["type"] == "http.request":
            arrived = len(message.get("body", b""))
            self._arrived += arrived
            self._silent = 0.0 if arrived else self._silent
            self._complete = not message.get("more_body", False)
            self._check_rate()
        else:
            self._complete = True
        return message

    def _check_rate(self) -> None:
        limits = self._limits
        expected = (self._waited - limits.silence_s) * limits.min_rate
        if not self._complete and self._arrived < expected:
            raise HTTPException(
                408,
                f"expected a body of at least {limits.min_rate} bytes/s, got {self._arrived} bytes in "
                f"{self._waited:.0f} s; send it faster",
            )


RETRY_S = 2  # seconds after which a refused caller may try again


class BodyTooLarge(HTTPException):
    """413 error. An ``HTTPException``, because FastAPI replaces other errors while it reads a body."""

    def __init__(self, limit: int, advice: str = "") -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes{advice and f'; {advice}'}")


class BodyLimit:
    """Middleware against bodies too large (413), too slow (408) or too much together (429), until answered."""

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        in_flight: int,
        pace: MinUploadRate,
        streamed: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._app = app
        self._limit = limit
        self._pace = pace
        self._streamed = streamed
        self._shares = FairShares(in_flight, alone=limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application; reading its body raises an error as soon as it exceeds a limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        paced = PacedBody(receive, self._pace)
        if (scope["method"], scope["path"]) in self._streamed:
            await self._app(scope, paced, send)
            return
        caller = caller_of(scope).name
        held = 0

        async def counted() -> Message:
            nonlocal held
            message = await paced()
            arrived = len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if held + arrived > self._limit:
                raise BodyTooLarge(self._limit)
            if arrived:
                if not self._shares.take(caller, arrived):
                    raise HTTPException(
                        429,
                        f"the bodies of all requests in hand may take {self._shares.capacity} bytes, and those of one "
                        f"caller as much as stays free for all others; try again in about {RETRY_S} s",
                        headers={"Retry-After": str(RETRY_S)},
                    )
                held += arrived
            return message

        try:
            await self._app(scope, counted, send)
        finally:  # not before the answer: images stay in memory as long
            self._shares.give_back(caller, held)


async def read_body(request: Request, limit: int, advice: str = "") -> bytes:
    """Return the whole body; raise ``BodyTooLarge``, with ``advice`` on what to do, past ``limit`` bytes."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit, advice)
        parts.append(part)
    return b"".join(parts)
