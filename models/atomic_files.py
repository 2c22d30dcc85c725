"""Writing files so that a reader never sees half of one and a power cut never takes one back."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write ``content`` to ``path``, whole or not at all (:func:`new_file`)."""
    with new_file(path, mode=mode) as file:
        file.write(content)


@contextmanager
def new_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a temporary file, open for writing, that becomes ``path`` when the block ends well.

    It lies beside ``path``, replaces what is there, and is durable then: fsync, rename, fsync of the folder. A block
    that raises leaves ``path`` as it was. ``mode`` are its permissions, less what the umask takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path``, with all that was written in it, when the block ends well.

    Raises ``FileExistsError`` at the end when ``path`` has come to exist meanwhile; the temporary folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        sync_folder(temporary)
        if path.exists():
            raise FileExistsError(str(path))
        try:
            temporary.rename(path)
        except OSError as error:  # another one made it since
            if error.errno != errno.ENOTEMPTY:
                raise
            raise FileExistsError(str(path)) from error
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder: gone for readers at once, then from the disk; what cannot be deleted stays as a leftover."""
    doomed = path.with_name(f".{path.name}.{uuid4().hex}")
    path.rename(doomed)
    sync_folder(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is not there; waits for whoever has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path, older_than_s: float = -math.inf) -> None:
    """Remove what a killed writer left in ``folder``.

    Nobody else may be writing there, unless ``older_than_s`` spares what was written to less long ago.
    """
    for path in folder.glob(".*"):
        if not LEFTOVER.fullmatch(path.name):
            continue
        with suppress(FileNotFoundError):  # its writer may end meanwhile
            newest = max(one.stat().st_mtime for one in (path, *path.rglob("*")))
            if time.time() - newest >= older_than_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
