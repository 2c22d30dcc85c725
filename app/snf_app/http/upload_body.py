"""Large request bodies in worker threads; an upload ends early if its client leaves or the service stops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from snf_app.access.callers import caller_of
from snf_app.http.body_limit import BodyTooLarge
from snf_app.http.errors import Problem, draining
from snf_app.http.shares import FairShares

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
