"""Interface to a file or folder at a URL: reading, writing, deleting and listing.

A ``FileEntry`` has the name, size and version of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class FileEntry(NamedTuple):
    """Name, size and version of a file on disk or in an object store.

    In the list of a folder, the name is the path relative to the folder; for a single file it is the last part of the
    path. The size is in bytes.

    The version is a text that differs where the content may differ: the ETag of an object, or time of change and size
    of a file of this machine, which are the same on all machines that mount its folder. ``problem`` is a sentence for
    an entry that cannot be read, such as a link that leads nowhere.
    """

    name: str
    size: int
    version: str
    problem: str | None = None


class LocatedFile(Protocol):
    """Interface of a file or folder, on disk or in an object store."""

    def read(self, span: tuple[int, int] | None, version: str | None) -> bytes:
        """Return all bytes of the file, or those of a given range.

        The range ``span`` is ``(start, stop)``, or None for all bytes. A ``version`` of None accepts any version.
        """
        ...

    def entry(self, version: str | None) -> FileEntry:
        """Return the file's name, its size in bytes and a text that identifies its version.

        Raises ``LocationNotFound``, and ``FileChanged`` for another version.
        """
        ...

    def stat(self) -> FileEntry | None:
        """Return the file's name, size in bytes and version identifier, or None if there is no such file.

        The version identifier is a text that differs where the content may differ.
        """
        ...

    def write(self, data: bytes | Path) -> None:
        """Write the file from bytes or from a local file, completely or not at all."""
        ...

    def write_new(self, data: bytes) -> bool:
        """Write the file unless it exists, and return whether it was written.

        The file is written completely or not at all.
        """
        ...

    def delete(self) -> None:
        """Delete the file, if there is one."""
        ...

    def files(self) -> Iterator[FileEntry]:
        """Yield an entry for each file in this folder and its subfolders, sorted by name.

        The location must be a folder.

        An entry has the name, size and version of a file.

        The order is that of the UTF-8 bytes of their names.
        """
        ...
