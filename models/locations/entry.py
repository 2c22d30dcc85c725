"""A file at a location, and the protocol of what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class FileEntry(NamedTuple):
    """A file at a location: its path relative to the location, its size in bytes and its version.

    The version is a text that differs where the content may differ: the ETag of an object, or time of change and size
    of a file of this machine, which are the same on all machines that mount its folder. ``problem`` is a sentence for
    an entry that cannot be read, such as a link that leads nowhere.
    """

    name: str
    size: int
    version: str
    problem: str | None = None


class LocatedFile(Protocol):
    """Protocol of a file or folder in one kind of store."""

    def read(self, span: tuple[int, int] | None, version: str | None) -> bytes:
        """Return the bytes in the range ``span``, ``(start, stop)``, or all for None. None as version accepts any."""
        ...

    def entry(self, version: str | None) -> FileEntry:
        """Return name, size and version. Raises ``LocationNotFound``, and ``FileChanged`` for another version."""
        ...

    def stat(self) -> FileEntry | None:
        """Return name, size and version of the file; None if there is none."""
        ...

    def write(self, data: bytes | Path) -> None:
        """Write the file, whole or not at all."""
        ...

    def write_new(self, data: bytes) -> bool:
        """Write the file, whole or not at all, unless there is one; return whether it was written."""
        ...

    def delete(self) -> None:
        """Delete the file, if there is one."""
        ...

    def files(self) -> Iterator[FileEntry]:
        """Yield the files below this folder, sorted by the UTF-8 bytes of their names."""
        ...
