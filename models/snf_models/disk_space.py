"""Free disk space, the reserve that large writes leave free, and translation of disk errors."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snf_models.errors import ErrorKind, ModelsError, QuotaFull, StorageFull, StorageReadOnly

RESERVE = 256 * 2**20
"""Bytes of a disk that large writes leave free, for what must always be stored: job records, aliases, keys, logs."""
SHARE = 4
"""The reserve is at most the whole disk divided by this number."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = frozenset({errno.EACCES, errno.EPERM})

SAFETENSORS_CODE = re.compile(r"\(os error (\d+)\)")
"""Number of an error of the operating system in the text of a ``SafetensorError``, which has no ``errno``."""


def waits_for_room(problem: ModelsError) -> bool:
    """Return whether the disk is full or unwritable, so that the work can be retried; a full quota is not."""
    return problem.kind is ErrorKind.NO_SPACE and not isinstance(problem, QuotaFull)


def usable_bytes(folder: Path) -> int:
    """Return the free bytes of a disk, less the reserve. The folder may be missing."""
    usage = shutil.disk_usage(existing_folder(folder))
    return max(0, usage.free - min(RESERVE, usage.total // SHARE))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files; those that are removed meanwhile do not count."""
    total = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).lstat().st_size
    return total


def require_room(folder: Path, count: int = 1) -> None:
    """Raise ``StorageFull`` without room for ``count`` bytes besides the reserve."""
    usable = usable_bytes(folder)
    if count > usable:
        needed = "the disk is full" if count == 1 else f"{count} bytes are needed"
        raise StorageFull(
            f"{needed}, {usable} bytes of the disk may be used: its last part is kept for job records, aliases and "
            "keys. Delete datasets, models or jobs, or make room otherwise"
        )


def existing_folder(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if os.path.exists(folder)), Path.cwd())  # noqa: PTH110


def folder_problem(folder: Path, *, writes: bool) -> str | None:
    """Return why this process cannot use a folder, which need not exist, or None."""
    existing = existing_folder(folder)
    if not existing.is_dir():
        return f"expected a folder, got {folder}: {existing} is a file"
    if writes and not os.access(existing, os.W_OK | os.X_OK):
        read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        reason = "its file system is read-only" if read_only else "this user has no right to"
        return f"expected a folder that can be written, got {folder}: {reason}"
    if not os.access(existing, os.R_OK | os.X_OK):
        return f"expected a folder that can be read, got {folder}: this user has no right to"
    return None


def storage_error(error: BaseException) -> StorageFull | StorageReadOnly | None:
    """Translate a disk error, or return None. The text has no path, so that it may be shown to callers."""
    if isinstance(error, StorageFull | StorageReadOnly):
        return error
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # extended codes have the primary code in the low byte
        if code == sqlite3.SQLITE_FULL:
            return StorageFull("the disk is full: the table cannot grow")
        return _read_only("the table cannot be changed") if code == sqlite3.SQLITE_READONLY else None
    number = error.errno if isinstance(error, OSError) else _code_of_safetensors(error)
    if number in FULL:
        return StorageFull(f"the disk is full: {os.strerror(number)}")
    if number == errno.EROFS or (number in REFUSED and _cannot_write(error)):
        return _read_only(os.strerror(number))
    return None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise ``StorageFull`` or ``StorageReadOnly`` for errors of the disk."""
    try:
        yield
    except ModelsError:
        raise
    except Exception as error:
        problem = storage_error(error)
        if problem is None:
            raise
        raise problem from error


def _read_only(reason: str) -> StorageReadOnly:
    return StorageReadOnly(f"the data folder cannot be written: {reason}")


def _code_of_safetensors(error: BaseException) -> int | None:
    if type(error).__name__ != "SafetensorError":
        return None
    match = SAFETENSORS_CODE.search(str(error))
    return int(match[1]) if match else None


def _cannot_write(error: BaseException) -> bool:
    """Return whether a refused access was to a file in a folder that this process may not write."""
    name = error.filename if isinstance(error, OSError) else None
    if not isinstance(name, str | bytes):
        return False
    path = Path(os.fsdecode(name))
    if os.access(path, os.F_OK) and not os.access(path, os.R_OK):
        return False  # more likely it could not be opened for reading
    return not os.access(existing_folder(path.parent), os.W_OK) or (path.exists() and not os.access(path, os.W_OK))
