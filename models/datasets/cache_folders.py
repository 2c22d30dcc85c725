"""Cache folders of a dataset's pixels, and removal of the least recently used ones that are not in use.

A process that uses a cache holds a shared lock on a file in it. The time of change of that file is the last use.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from models.atomic_files import remove_folder
from models.errors import StorageFull

KEPT = 8
"""Most caches of a dataset, unless more are in use: each image size and colour that was asked for makes one."""


def hold(lock: Path) -> int | None:
    """Lock a dataset's pixel cache so that it is not removed, and return the file descriptor of the lock.

    Closing the descriptor releases the lock. Returns None if the cache does not exist or is being removed.

    Args:
        lock: File in the folder of the cache.
    """
    descriptor = share(lock)
    if descriptor is not None:
        with suppress(OSError):  # of a folder that may only be read
            os.utime(lock)
    return descriptor


def share(path: Path) -> int | None:
    """Take a shared lock on a file so that :func:`remove_unused` keeps it, and return the file descriptor of the lock.

    Closing the descriptor releases the lock. The file is not changed. Returns None if there is no such file, or if it
    is being removed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        removed = not _is_at(descriptor, path)
    except OSError:  # it is being removed
        removed = True
    if removed:
        os.close(descriptor)
        return None
    return descriptor


def make_room(folder: Path, lock: str, require: Callable[[], None]) -> None:
    """Remove the least recently used pixel caches of a dataset until there is room for a new cache.

    Room means disk space, and at most 8 caches with the new one. Caches in use are never removed, so that more than 8
    may stay.

    Args:
        folder: Folder with a folder for each cache.
        lock: Name of the file in each cache that its users lock.
        require: Raises ``StorageFull`` while there is no room for another cache.

    Raises:
        StorageFull: There is no room, even without all caches that are not in use.
    """
    locks: list[tuple[float, Path]] = []
    for cache in folder.glob("[!.]*"):
        with suppress(FileNotFoundError, NotADirectoryError):  # another process removed it, or it is no cache
            locks.append(((cache / lock).stat().st_mtime, cache / lock))
    surplus = len(locks) - KEPT + 1
    for _, path in sorted(locks):
        try:
            require()
            full = False
        except StorageFull:
            full = True
        if not full and surplus <= 0:
            return
        surplus -= remove_unused(path, partial(remove_folder, path.parent))
    require()


def remove_unused(lock: Path, remove: Callable[[], None]) -> bool:
    """Remove a cache or a file if no process uses it, and return whether it is gone.

    Another process may have removed it, too.

    Args:
        lock: The file that its users lock.
        remove: Removes it. What it raises is passed on, but for ``FileNotFoundError``.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:  # another process removed it
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(descriptor, lock):  # another process has made the cache anew
            return False
        remove()
    except FileNotFoundError:  # another process removed it after it was opened
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at ``path``; raise ``FileNotFoundError`` if there is none.

    Between the opening of a file and its lock, another process may remove its folder and make a new one.
    """
    return os.path.samestat(os.fstat(descriptor), path.stat())
