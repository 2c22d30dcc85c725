"""Cache folders of a dataset's pixels. Users hold a shared lock on a file, whose modification time is the last use."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from snf_models.atomic_files import remove_folder
from snf_models.errors import StorageFull

KEPT = 8
"""Most caches of a dataset, unless more are in use: each image size and colour that was asked for makes one."""


def hold(lock: Path) -> int | None:
    """Lock a pixel cache, and return the descriptor whose closing releases it; None if it is gone or being removed."""
    descriptor = share(lock)
    if descriptor is not None:
        with suppress(OSError):  # of a folder that may only be read
            os.utime(lock)
    return descriptor


def share(path: Path) -> int | None:
    """Lock a file against :func:`remove_unused` without changing it; None if it is gone or being removed."""
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
    """Remove the least recently used caches that are not in use until ``require`` raises no ``StorageFull``."""
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
    """Remove a cache or a file unless a process uses it; return whether it is gone."""
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
    """Between the opening of a file and its lock, another process may remove its folder and make a new one."""
    return os.path.samestat(os.fstat(descriptor), path.stat())
