"""Uploads of datasets: streamed to disk within limits, made into a dataset; nothing is left of one that fails."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from app.body_limit import BodyTooLarge
from app.dataset_form import DatasetForm
from app.problems import Problem, draining
from app.upload_folders import UploadFolders, note_target
from models.datasets import DatasetStore
from models.datasets.limits import Room
from models.datasets.report import DatasetReport
from models.datasets.store import RESERVE
from models.problems import StorageFull
from worker.settings import Settings

PIECE = 2**20
"""Bytes that are brought from the event loop to the upload's thread at once."""
SILENCE_S = 60.0
"""Time without a byte after which an upload is given up: others wait for its place."""
LOOK_S = 0.5
"""Time between two looks whether client and service are still there."""
RETRY_S = 30

log = logging.getLogger(__name__)


class DatasetUploads:
    """Takes a few uploads at once, each in the thread of its route, which waits for disk and network."""

    def __init__(self, settings: Settings, store: DatasetStore, draining: threading.Event) -> None:
        self._settings = settings
        self._store = store
        self._folders = UploadFolders(settings.uploads_dir, store.root)
        self._slots = threading.BoundedSemaphore(settings.max_dataset_uploads)
        self._draining = draining
        self._stopping = threading.Event()

    def start(self) -> None:
        """Removes what a killed service left behind."""
        try:
            self._folders.sweep()
        except OSError as error:
            # Scoring needs no such folder.
            log.error("leftovers of uploads cannot be removed: %s", error)

    def stop(self) -> None:
        """Ends what has arrived and is still being looked through; what has not ended as soon as the service drains."""
        self._stopping.set()

    def receive(self, request: Request) -> DatasetReport:
        """The report of the dataset that a request's form becomes; to be called in a thread of the framework.

        Raises problems of the form, `BodyTooLarge`, and what `DatasetStore.create` raises.
        """
        if not self._slots.acquire(blocking=False):
            raise Problem(
                429,
                "too-many-uploads",
                "Too many uploads at once",
                f"{self._settings.max_dataset_uploads} uploads are in hand; try again later",
                headers={"Retry-After": str(RETRY_S)},
            )
        try:
            with _full_disk(), self._folders.new() as folder:
                self._store.root.mkdir(parents=True, exist_ok=True)
                room = Room(self._store.root, self._settings.dataset_quota_bytes, RESERVE)
                declared = int(request.headers.get("content-length", 0))
                self._check_size(declared)
                room.require(declared)
                kind = request.headers.get("content-type")
                # The name is looked at again when all has arrived; here it spares a long upload in vain.
                with closing(DatasetForm(kind, folder, self._store.check_free, room.take)) as form:
                    for piece in self._pieces(request):
                        form.write(piece)
                    name, sources = form.finish()
                note_target(folder, name)
                return self._store.create(name, sources, progress=_Watch(request, self._stopping))
        except ClientDisconnect as error:
            raise Problem(400, "upload-cut-off", "The upload was cut off", "the client went away") from error
        finally:
            self._slots.release()

    def _check_size(self, size: int) -> None:
        if size > self._settings.max_dataset_bytes:
            raise BodyTooLarge(self._settings.max_dataset_bytes)

    def _pieces(self, request: Request) -> Iterator[bytes]:
        body = _Body(request, self._draining)
        size = 0
        while piece := anyio.from_thread.run(body.piece):
            size += len(piece)
            self._check_size(size)
            yield piece


class _Body:
    """A request's body in pieces for a thread; it ends where the client falls silent or the service stops."""

    def __init__(self, request: Request, stopping: threading.Event) -> None:
        self._receive = request.receive
        self._stopping = stopping
        self._more = True

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


class _Watch:
    """Hears of the progress of a dataset, and ends it when nobody waits for it any more."""

    def __init__(self, request: Request, stopping: threading.Event) -> None:
        self._request = request
        self._stopping = stopping
        self._looked = time.monotonic()

    def __call__(self, _done: int, _total: int) -> None:
        if self._stopping.is_set():
            raise draining()
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            if anyio.from_thread.run(self._request.is_disconnected):
                raise ClientDisconnect


def _stalled() -> Problem:
    return Problem(408, "upload-stalled", "The upload came to a halt", f"nothing arrived within {SILENCE_S:g} s")


@contextmanager
def _full_disk() -> Iterator[None]:
    """Turns what a full disk raises into `StorageFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(f"the disk is full: {error.strerror}") from error
