"""A request's body for a thread that writes it to disk, whatever client and disk do meanwhile."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from app.access.callers import caller_of
from app.http.body_limit import BodyTooLarge
from app.http.errors import Problem, draining
from app.http.shares import Shares
from models.errors import StorageFull

PIECE = 2**20
"""Bytes that are brought from the event loop to the upload's thread at once."""
LOOK_S = 0.5
"""Time between two looks whether client and service are still there."""


class UploadBody:
    """A request's body, at most `limit` bytes, which ends where the client leaves or the service stops.

    How slowly it may arrive is limited where all bodies arrive, in `BodyLimit`.
    """

    def __init__(self, request: Request, limit: int, stopping: threading.Event) -> None:
        self.declared = int(request.headers.get("content-length", 0))
        self._receive = request.receive
        self._limit = limit
        self._stopping = stopping
        self._more = True
        self._check_size(self.declared)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives; to be called in a thread of the framework.

        Raises problems, `BodyTooLarge`, `BodyTooSlow`.
        """
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
        while self._more and size < PIECE:
            if self._stopping.is_set():
                raise draining()
            try:
                async with asyncio.timeout(LOOK_S):
                    message = await self._receive()
            except TimeoutError:
                continue
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
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
def place(places: Shares, request: Request, retry_s: int = 30) -> Iterator[None]:
    """Hold one of the places for uploads for the request's caller; raise a 429 problem where it gets none."""
    caller = caller_of(request.scope).name
    if not places.take(caller):
        raise Problem(
            429,
            "too-many-uploads",
            "Too many uploads at once",
            f"{places.capacity - places.free} of {places.capacity} places for uploads are taken, and one caller gets "
            "at most as many as stay free for all others; try again later",
            headers={"Retry-After": str(retry_s)},
        )
    try:
        yield
    finally:
        places.give_back(caller)
