"""A request's body for a thread that writes it to disk, whatever client and disk do meanwhile."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from app.body_limit import BodyTooLarge
from app.problems import Problem, draining
from models.problems import StorageFull

PIECE = 2**20
"""Bytes that are brought from the event loop to the upload's thread at once."""
SILENCE_S = 60.0
"""Time without a byte after which an upload is given up: others wait for its place."""
LOOK_S = 0.5
"""Time between two looks whether client and service are still there."""


class UploadBody:
    """A request's body, at most `limit` bytes, which ends where the client falls silent or the service stops."""

    def __init__(self, request: Request, limit: int, stopping: threading.Event) -> None:
        self.declared = int(request.headers.get("content-length", 0))
        self._receive = request.receive
        self._limit = limit
        self._stopping = stopping
        self._more = True
        self._check_size(self.declared)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives; to be called in a thread of the framework. Raises problems, `BodyTooLarge`."""
        size = 0
        while piece := anyio.from_thread.run(self.piece):
            size += len(piece)
            self._check_size(size)
            yield piece

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise BodyTooLarge(self._limit)

    async def piece(self) -> bytes:
        """What arrives next, about a piece of it; empty at the end of the body."""
        chunks: list[bytes] = []
        size = 0
        heard = time.monotonic()
        while self._more and size < PIECE:
            if self._stopping.is_set():
                raise draining()
            try:
                async with asyncio.timeout(LOOK_S):
                    message = await self._receive()
            except TimeoutError as error:
                if time.monotonic() - heard > SILENCE_S:
                    raise _stalled() from error
                continue
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            heard = time.monotonic()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self._more = message.get("more_body", False)
        return b"".join(chunks)


@contextmanager
def upload_problems() -> Iterator[None]:
    """Turns a client that went away into a 400 problem, and what a full disk raises into `StorageFull`."""
    try:
        yield
    except ClientDisconnect as error:
        raise Problem(400, "upload-cut-off", "The upload was cut off", "the client went away") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(f"the disk is full: {error.strerror}") from error


@contextmanager
def place(slots: threading.BoundedSemaphore, most: int, retry_s: int = 30) -> Iterator[None]:
    """Holds one of the places for uploads; raises a 429 problem where all `most` are taken."""
    if not slots.acquire(blocking=False):
        raise Problem(
            429,
            "too-many-uploads",
            "Too many uploads at once",
            f"{most} uploads are in hand; try again later",
            headers={"Retry-After": str(retry_s)},
        )
    try:
        yield
    finally:
        slots.release()


def _stalled() -> Problem:
    return Problem(408, "upload-stalled", "The upload came to a halt", f"nothing arrived within {SILENCE_S:g} s")
