"""Interface of files and folders at a URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class FileEntry(NamedTuple):
    """Name, size in bytes and version of a file. In a listing the name is relative to the folder."""

    name: str
    size: int
    version: str  # ETag, or time of change and size: differs where the content may differ
    problem: str | None = None  # why it cannot be read, such as a link that leads nowhere


class LocatedFile(Protocol):
    def read(self, span: tuple[int, int] | None, version: str | None) -> bytes:
        """Return the bytes of ``span``, ``(start, stop)``, or all; raise ``FileChanged`` for another version."""
        ...

    def entry(self, version: str | None) -> FileEntry: ...

    def stat(self) -> FileEntry | None: ...

    def write(self, data: bytes | Path) -> None: ...

    def write_new(self, data: bytes) -> bool:
        """Write the file unless it exists; return whether it was written."""
        ...

    def delete(self) -> None: ...

    def files(self) -> Iterator[FileEntry]:
        """Yield all files below this folder, in the order of the UTF-8 bytes of their names."""
        ...
