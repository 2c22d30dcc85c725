"""Bodies of requests, within limits of size, speed and memory; streamed answers, and answers to HEAD."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.from_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.access.permissions import caller_of
from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem, draining
from snf_worker.settings import Settings


class BodyTooSlow(HTTPException):
    """408 error. An ``HTTPException``, because FastAPI replaces other errors while it reads a body."""

    def __init__(self, detail: str) -> None:
        super().__init__(408, detail)


@dataclass(frozen=True)
class PaceLimits:
    """Limits on how slowly a request body may arrive."""

    silence_s: float  # longest wait for the next bytes
    least_rate: int  # bytes/s, on average over the waiting past the first ``silence_s``

    @classmethod
    def of(cls, settings: Settings) -> PaceLimits:
        return cls(settings.body_timeout_s, settings.min_body_rate)


class PacedBody:
    """ASGI ``receive`` that raises ``BodyTooSlow``; only the time of waiting for the client counts."""

    def __init__(self, receive: Receive, limits: PaceLimits) -> None:
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
            raise BodyTooSlow(
                f"nothing of the request's body arrived within {limits.silence_s:g} s; send it without long pauses"
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
        expected = (self._waited - limits.silence_s) * limits.least_rate
        if not self._complete and self._arrived < expected:
            raise BodyTooSlow(
                f"expected a body of at least {limits.least_rate} bytes/s, got {self._arrived} bytes in "
                f"{self._waited:.0f} s; send it faster"
            )


RETRY_S = 2
"""Seconds after which a refused caller may try again."""


class BodyTooLarge(HTTPException):
    """413 error. An ``HTTPException``, because FastAPI replaces other errors while it reads a body."""

    def __init__(self, limit: int, advice: str = "") -> None:
        super().__init__(413, f"the request's body is larger than {limit} bytes{advice and f'; {advice}'}")


class TooMuchInFlight(HTTPException):
    """429 error for a body beyond the memory left for all bodies, or beyond this caller's share."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"the bodies of all requests in hand may take {limit} bytes, and those of one caller as much as stays free "
            f"for all others; try again in about {RETRY_S} s",
            headers={"Retry-After": str(RETRY_S)},
        )


class BodyLimit:
    """Middleware against bodies too large (413), too slow (408) or too much together (429), until answered."""

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        in_flight: int,
        pace: PaceLimits,
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
                    raise TooMuchInFlight(self._shares.capacity)
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


CHUNK_BYTES = 2**20
"""Bytes that are passed from the event loop to the thread of an upload at once."""
CHECK_S = 0.5
"""Seconds between checks whether the client has left or the service stops."""


class UploadBody:
    """Body of an upload that comes through the event loop and is read in a worker thread."""

    def __init__(self, request: Request, limit: int, stopping: threading.Event) -> None:
        self.declared = int(request.headers.get("content-length", 0))
        self._receive = request.receive
        self._limit = limit
        self._stopping = stopping
        self._more = True
        self._check_size(self.declared)

    def chunks(self) -> Iterator[bytes]:
        """Yield chunks of about 1 MiB as they arrive, in a thread of the framework; raise 413, 408 or 503."""
        size = 0
        while chunk := anyio.from_thread.run(self.next_chunk):
            size += len(chunk)
            self._check_size(size)
            yield chunk

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise BodyTooLarge(self._limit)

    async def next_chunk(self) -> bytes:
        """Return the next chunk of about 1 MiB, empty at the end of the body."""
        chunks: list[bytes] = []
        size = 0
        while self._more and size < CHUNK_BYTES:
            if self._stopping.is_set():
                raise draining()
            try:
                async with asyncio.timeout(CHECK_S):
                    message = await self._receive()
            except TimeoutError:
                continue
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self._more = message.get("more_body", False)
        return b"".join(chunks)


class UploadWatch:
    """Progress callback that aborts an upload: ``ClientDisconnect``, or 503 where the service stops."""

    def __init__(self, request: Request, stopping: threading.Event) -> None:
        self._request = request
        self._stopping = stopping
        self._checked = time.monotonic()

    def __call__(self, _done: int, _total: int) -> None:
        if self._stopping.is_set():
            raise draining()
        if time.monotonic() - self._checked >= CHECK_S:
            self._checked = time.monotonic()
            if anyio.from_thread.run(self._request.is_disconnected):
                raise ClientDisconnect


@contextmanager
def upload_slot(slots: FairShares, request: Request, retry_s: int = 30) -> Iterator[None]:
    """Count an upload during the block; raise 429 if the caller or all callers have too many."""
    caller = caller_of(request.scope).name
    if not slots.take(caller):
        raise Problem(
            429,
            "too-many-uploads",
            "Too many uploads at once",
            f"{slots.capacity - slots.free} of {slots.capacity} uploads at once are running, and one caller may have "
            "at most as many as stay free for all others; try again later",
            headers={"Retry-After": str(retry_s)},
        )
    try:
        yield
    finally:
        slots.give_back(caller)


class ClosableChunks(Protocol):
    """Interface of an iterator over the bytes of a response that keeps a file or the like until it is closed."""

    def __iter__(self) -> ClosableChunks: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Release the source of the bytes, such as an open file, even if not all chunks were read."""


class ClosedStream(StreamingResponse):
    """Streaming response that closes the iterator of its bytes, even if the client disconnects early."""

    def __init__(
        self,
        content: AsyncGenerator[bytes] | ClosableChunks,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The answer to a client that left is cancelled, and closing must finish even then.
            with anyio.CancelScope(shield=True):
                if isinstance(self._content, AsyncGenerator):
                    await self._content.aclose()
                else:
                    await anyio.to_thread.run_sync(self._content.close)


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
