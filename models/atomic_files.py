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

from models.disk_space import require_room

LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""Names of temporary files and folders."""
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""Errors of a file system without hard links."""


def sha256_file(path: Path) -> str:
    """Return the SHA-256 digest of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write ``content`` to a file atomically.

    Readers find either all of the old or all of the new content, also after a crash.

    Args:
        path: The file.
        content: Its content.
        mode: Its permissions, before the umask is applied.
    """
    with new_file(path, mode=mode) as file:
        file.write(content)


def write_if_absent(path: Path, content: bytes) -> bool:
    """Write ``content`` to a file unless the file already exists.

    Returns whether the file was written. The file is durable and appears as a whole. Only on a file system without hard
    links it is empty for a moment.

    Of several processes that do so at the same time one writes.
    """
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
    """Open a temporary file that replaces ``path`` when the ``with`` block ends.

    The file is replaced only if the block ends without an exception.

    The file is then durable: it is synced, renamed, and the folder is synced. If the block raises, ``path`` is
    unchanged.

    Args:
        path: The file.
        mode: Its permissions, before the umask is applied.
    """
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
    """Yield the path of a temporary file, which replaces ``path`` at the end of the block.

    The file is replaced only if the ``with`` block ends without an exception.

    It is for writers that need the name of a file. The file is then durable, as in :func:`new_file`.
    """
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
    """Create a temporary folder that is renamed to ``path`` when the ``with`` block ends.

    The folder is renamed only if the block ends without an exception.

    It is then durable: its files and folders are synced, it is renamed, and its parent is synced. If the block raises,
    the temporary folder is removed.

    Args:
        path: The folder.
        size: What is known of its size, in bytes: at least so many must be free beside the reserve of the disk.
        replace: Whether a folder that exists is replaced: it is renamed, deleted after the new one has its name, and
            put back if the renaming fails.

    Raises:
        FileExistsError: ``path`` exists at the end of the block, and is not to be replaced.
        StorageFull: The disk has no room beside its reserve.
    """
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
    """Create a folder and its missing parents so that they survive a power failure.

    The parent of each new folder is synced before anything is put into the folder.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder and its files.

    The folder is renamed first, so that readers never see it half deleted.

    Files that cannot be deleted are left over (:func:`remove_leftovers`).
    """
    doomed = path.with_name(f".{path.name}.{uuid4().hex}")
    path.rename(doomed)
    sync_folder(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a folder for the duration of a ``with`` block, an exclusive one unless ``shared``.

    Waits until no other process or thread holds the lock (a shared one: exclusively), a ``flock`` on the file ``.lock``
    of the folder. Code that does not take the lock is not kept out.

    A missing folder is created.
    """
    make_folder(folder)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path, older_than_s: float = -math.inf, name: str | None = None) -> None:
    """Delete the temporary files and folders that killed processes left in a folder.

    Nothing is deleted that was modified within the last ``older_than_s`` seconds. A folder is as new as the newest file
    in it.

    Args:
        folder: The folder.
        older_than_s: The age in seconds from which they are removed. Without it no other process may be writing.
        name: The file or folder that they would have become; None for any.
    """
    for path in folder.glob(".*"):
        found = LEFTOVER.fullmatch(path.name)
        if found is None or name not in (None, found[1]):
            continue
        with suppress(FileNotFoundError):  # its writer may finish in the meantime
            newest = max(file.stat().st_mtime for file in (path, *path.rglob("*")))
            if time.time() - newest >= older_than_s:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def sync_folder(path: Path) -> None:
    """Force the entries of a folder, such as the names of its files, to disk (fsync).

    New, renamed and deleted files then survive a power failure.
    """
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
