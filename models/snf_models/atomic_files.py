"""Atomic and durable writing of files and folders: a reader sees all of the content or none of it."""

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

from snf_models.disk_space import require_room

LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""Names of temporary files and folders."""
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""Errors of a file system without hard links."""


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file durably. ``mode`` is taken before the umask."""
    with new_file(path, mode=mode) as file:
        file.write(content)


def write_if_absent(path: Path, content: bytes) -> bool:
    """Write a file durably unless it exists; of several processes one writes it and gets True."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        write_atomically(temporary, content)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:  # such a file system has no links: the file is empty for a moment
                path.touch(exist_ok=False)
            except FileExistsError:
                return False
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


@contextmanager
def new_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path``, durably, if the ``with`` block raises nothing."""
    make_folder(path.parent)
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
def new_path(path: Path) -> Iterator[Path]:
    """Yield a path as :func:`new_file`, for writers that need a name."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path, size: int = 1, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder that gets its name, durably, if the block raises nothing. ``size`` bytes must be free."""
    require_room(path.parent, size)
    make_folder(path.parent)
    temporary, former = (path.with_name(f".{path.name}.{uuid4().hex}") for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        for inner in temporary.rglob("*"):
            if not inner.is_symlink() and (inner.is_file() or inner.is_dir()):
                _sync(inner)
        sync_folder(temporary)
        if path.exists():
            if not replace:
                raise FileExistsError(str(path))
            path.rename(former)
        try:
            temporary.rename(path)
        except OSError as error:  # another process has created it
            if error.errno != errno.ENOTEMPTY:
                raise
            raise FileExistsError(str(path)) from error
        sync_folder(path.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Create a folder and its parents so that they survive a power failure."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove_folder(path: Path) -> None:
    """Rename a folder, so that readers never see it half deleted, and delete it."""
    doomed = path.with_name(f".{path.name}.{uuid4().hex}")
    path.rename(doomed)
    sync_folder(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a folder, a ``flock`` on its file ``.lock``; a missing folder is created."""
    make_folder(folder)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path, older_than_s: float = -math.inf, name: str | None = None) -> None:
    """Delete what killed processes left, if it is older than ``older_than_s`` seconds; ``name`` is the target."""
    for path in folder.glob(".*"):
        found = LEFTOVER.fullmatch(path.name)
        if found is None or name not in (None, found[1]):
            continue
        with suppress(FileNotFoundError):  # its writer may finish in the meantime
            newest = max(file.stat().st_mtime for file in (path, *path.rglob("*")))
            if time.time() - newest >= older_than_s:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def sync_folder(path: Path) -> None:
    """Sync the entries of a folder: new, renamed and deleted files survive a power failure."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
