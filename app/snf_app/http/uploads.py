"""Uploads: their bodies in worker threads, limits on them at once, and their temporary folders."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from snf_app.access.permissions import caller_of
from snf_app.http.admission import BodyTooLarge, FairShares
from snf_app.http.errors import draining
from snf_models.disk import remove_leftovers

LOCK = "lock"
TARGET = "target"

log = logging.getLogger(__name__)


class UploadFolders:
    """Temporary folders of uploads, each locked by its process; a free lock shows that the process was killed."""

    def __init__(self, root: Path, datasets: Path) -> None:
        self._root = root
        self._datasets = datasets

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Yield a new folder, which holds only the file of its lock, and delete it at the end of the block."""
        folder = self._root / uuid4().hex
        # A sweep must not find the folder without its lock.
        with self._locked():
            folder.mkdir()
            lock = (folder / LOCK).open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with lock:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the upload folders that killed processes left, and the unfinished datasets made from them."""
        with self._locked():
            orphans, live = [], set()
            for folder in self._root.iterdir():
                if not folder.is_dir():
                    continue
                if _is_locked(folder):
                    live.add(_target(folder))
                else:
                    orphans.append(folder)
            for folder in orphans:
                name = _target(folder)
                if name is not None and name not in live:
                    remove_leftovers(self._datasets, name=name)
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def note_target(folder: Path, name: str) -> None:
    """Record the dataset to be made from an upload, which ``sweep`` removes if the service is killed."""
    (folder / TARGET).write_text(name, encoding="utf-8")


def _target(folder: Path) -> str | None:
    try:
        return (folder / TARGET).read_text(encoding="utf-8")
    except OSError:
        return None


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        # Another service may be receiving the upload: it is not deleted.
        log.warning("%s is taken as in use, because its lock cannot be read: %s", folder, error.strerror)
        return True
    return False


CHUNK_BYTES = 2**20  # bytes that are passed from the event loop to the thread of an upload at once
CHECK_S = 0.5  # seconds between checks whether the client has left or the service stops


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


def upload_slot(slots: FairShares, request: Request) -> AbstractContextManager[None]:
    """Count an upload during the block; raise 429 if the caller or all callers have too many."""
    return slots.slot(caller_of(request.scope).name, "too-many-uploads", "uploads at once are running", retry_s=30)
