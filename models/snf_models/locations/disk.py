"""Files and folders on the disk of this machine, of scheme ``file``."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snf_models.disk import new_file, storage_error, sync, write_if_absent
from snf_models.errors import (
    FileChanged,
    FileUnreadable,
    LocationNotFound,
    LocationRefused,
    LocationUnavailable,
    StorageFull,
)


class FileEntry(NamedTuple):
    """Name, size in bytes and version of a file. In a listing the name is relative to the folder."""

    name: str
    size: int
    version: str  # ETag, or time of change and size: differs where the content may differ
    problem: str | None = None  # why it cannot be read, such as a link that leads nowhere


LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that another attempt would give again."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True)
class DiskFile:
    """File or folder at the absolute ``path``, which must be in ``root``, if given, whatever links lead there."""

    url: str
    path: str
    root: str | None = None

    def read(self, span: tuple[int, int] | None, version: str | None) -> bytes:
        with self._errors(is_read=True), open(self.path, "rb", buffering=0, opener=self._open_plain) as file:
            status = os.fstat(file.fileno())
            self._check(status, version)
            start, stop = span or (0, status.st_size)
            data = _pread(file.fileno(), start, stop - start)
            if version is not None:
                self._check(os.fstat(file.fileno()), version)
        if len(data) < stop - start:
            raise FileChanged(f"{self.url} has {status.st_size} bytes, expected at least {stop}")
        return data

    def entry(self, version: str | None) -> FileEntry:
        with self._errors(is_read=True):
            if self.root is not None:
                _real_parts(self.path, self.root)
            status = os.stat(self.path)  # noqa: PTH116
        self._check(status, version)
        return FileEntry(self.path.rpartition("/")[2], status.st_size, _version(status))

    def write(self, data: bytes | Path) -> None:
        with self._errors(), new_file(Path(self.path)) as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                with data.open("rb") as content:
                    shutil.copyfileobj(content, file)

    def write_new(self, data: bytes) -> bool:
        """Write the file unless it exists. Only without hard links may it be seen empty for a moment."""
        with self._errors():
            return write_if_absent(Path(self.path), data)

    def delete(self) -> None:
        path = Path(self.path)
        with suppress(LocationNotFound), self._errors():
            path.unlink()
            sync(path.parent)

    def files(self) -> Iterator[FileEntry]:
        """Yield files by name. Links to folders, links out of the folder and pipes have a ``problem``."""
        with self._errors():
            if not stat.S_ISDIR(os.stat(self.path).st_mode):  # noqa: PTH116
                raise LocationNotFound(f"expected a folder at {self.url}, got a file")
            folder = os.open(self.path, FOLDER)
        with _closing(folder):
            with self._errors():
                names = _names(folder)
            yield from _below("", folder, names, os.path.realpath(self.path))

    def _check(self, status: os.stat_result, version: str | None) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise LocationNotFound(f"expected a file at {self.url}, got a folder, pipe or device")
        if version is not None and _version(status) != version:
            raise FileChanged(f"{self.url} is not the file that it was: expected version {version}")

    def _open_plain(self, path: str, flags: int) -> int:
        flags |= os.O_NONBLOCK  # a pipe would block for ever
        if self.root is None:
            return os.open(path, flags)
        # A link may have taken the place of a file or folder since it was listed: after the links of now are
        # resolved, none is followed.
        *folders, name = _real_parts(path, self.root)
        folder = os.open(os.path.realpath(self.root), FOLDER)
        try:
            for part in folders:
                inner = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)

    @contextmanager
    def _errors(self, *, is_read: bool = False) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LocationNotFound(f"there is nothing at {self.url}") from error
        except OSError as error:
            full = storage_error(error)
            if isinstance(full, StorageFull):  # work waits for room
                raise full from error
            detail = f"{self.url} cannot be used: {error.strerror or error}"
            if is_read and error.errno in (*LASTING, errno.EIO):
                raise FileUnreadable(detail) from error
            raise (LocationRefused if error.errno in LASTING else LocationUnavailable)(detail) from error


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _real_parts(path: str, root: str) -> list[str]:
    """Return the parts of a real path below that of a folder; raise ``OSError`` if it is not below."""
    real, above = os.path.realpath(path), os.path.realpath(root).rstrip("/") + "/"
    if not real.startswith(above):
        raise OSError(errno.ELOOP, "it is a link that leads out of the folder")
    return real.removeprefix(above).split("/")


def _pread(descriptor: int, start: int, size: int) -> bytes:
    data = os.pread(descriptor, size, start)
    if len(data) == size:
        return data
    pieces = [data]  # one call reads at most 2 GiB, and a network file system may give less than it was asked for
    while pieces[-1] and (left := size - sum(map(len, pieces))):
        pieces.append(os.pread(descriptor, left, start + size - left))
    return b"".join(pieces)


def _names(folder: int) -> dict[str, bool]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}


def _below(prefix: str, folder: int, names: dict[str, bool], root: str) -> Iterator[FileEntry]:
    """Yield the files below an open folder. No link is followed that takes the place of a folder."""
    # The name of a folder is compared with its slash, which gives the order of whole paths.
    for name in sorted(names, key=lambda name: os.fsencode(name) + (b"/" if names[name] else b"")):
        if not names[name]:
            entry = _file_entry(prefix, name, folder, root)
            if entry is not None:
                yield entry
            continue
        try:
            with _closing(os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)) as inner:
                yield from _below(f"{prefix}{name}/", inner, _names(inner), root)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            yield FileEntry(prefix + name, 0, "", f"the folder cannot be listed: {error.strerror}")


def _file_entry(prefix: str, name: str, folder: int, root: str) -> FileEntry | None:
    """Return the entry of a name that is no folder; None for a file that was removed meanwhile."""
    path = prefix + name
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = os.path.realpath(os.path.join(root, path))  # noqa: PTH118
            if not target.startswith(f"{root.rstrip('/')}/"):
                return FileEntry(path, 0, "", "it is a link that leads out of the folder")
            try:
                status = os.stat(target, follow_symlinks=False)  # noqa: PTH116
            except OSError as error:
                return FileEntry(path, 0, "", f"it is a link that leads nowhere: {error.strerror}")
    except FileNotFoundError:
        return None
    except OSError as error:
        return FileEntry(path, 0, "", error.strerror or str(error))
    if not stat.S_ISREG(status.st_mode):
        kind = "a link to a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        return FileEntry(path, 0, "", f"expected a plain file, got {kind}")
    return FileEntry(path, status.st_size, _version(status))


def _version(status: os.stat_result) -> str:
    # Not the inode: network file systems number files anew when they are mounted again, and on every machine.
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
