"""Atomic and durable writing, free disk space, and translation of disk errors."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from snf_models.errors import ErrorKind, ModelsError, QuotaFull, StorageFull, StorageReadOnly

RESERVE = 256 * 2**20
"""Bytes of a disk that large writes leave free, for what must always be stored: job records, aliases, keys, logs."""
SHARE = 4  # the reserve is at most the whole disk divided by this number

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


RECHECK_BYTES = 4 * 2**20


class DiskQuota:
    """Largest size of a folder in bytes, which also keeps some free space on its disk."""

    def __init__(self, folder: Path, quota: int | None) -> None:
        self._folder = folder
        self._quota_left = None if quota is None else quota - folder_bytes(folder)
        self._unchecked = 0

    def require(self, count: int) -> None:
        """Raise ``QuotaFull`` or ``StorageFull`` where there is no room for ``count`` more bytes."""
        if self._quota_left is not None and count > self._quota_left:
            raise QuotaFull(f"{count} bytes are needed, {max(0, self._quota_left)} bytes of the quota are left")
        require_room(self._folder, max(1, count))

    def take(self, count: int) -> None:
        """Subtract new bytes from the quota as in :meth:`require`; free space of the disk is checked every 4 MiB."""
        if self._quota_left is not None:
            self._quota_left -= count
        self._unchecked += count
        if self._unchecked >= RECHECK_BYTES or (self._quota_left is not None and self._quota_left < 0):
            self.require(0)
            self._unchecked = 0


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


LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{32}")  # names of temporary files and folders
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
    sync(path.parent)
    return True


@contextmanager
def new_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path``, durably, if the ``with`` block raises nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with new_path(path) as temporary, os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        yield file


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Yield a path as :func:`new_file`, for writers that need a name."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


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
                sync(inner)
        sync(temporary)
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
        sync(path.parent)
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
        sync(folder.parent)


def remove_folder(path: Path) -> None:
    """Rename a folder, so that readers never see it half deleted, and delete it."""
    doomed = path.with_name(f".{path.name}.{uuid4().hex}")
    path.rename(doomed)
    sync(path.parent)
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


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder: new, renamed and deleted files survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_database(path: Path, *schema: str) -> Iterator[sqlite3.Connection]:
    """Write a database that only this process can see: without journal and locks, which network file systems lack."""
    uri = f"{path.absolute().as_uri()}?nolock=1"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN", *schema):
            database.execute(statement)
        yield database
        database.execute("COMMIT")


def open_database(path: Path) -> sqlite3.Connection:
    """Open a database without locks, as it never changes."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
