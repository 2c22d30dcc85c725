"""Files that tell how much of them was sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Hears of bytes that were sent, and of all there are."""


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Count:
    """Counts what several files have given."""

    def __init__(self, told: Progress | None, total: int) -> None:
        self._told = told
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        if self._told is not None:
            self._told(min(self._done, self._total), self._total)


class Counted:
    """Something to read from, counted."""

    def __init__(self, file: _Readable, count: Count) -> None:
        self._file = file
        self._count = count

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        data = self._file.read(size)
        self._count(len(data))
        return data


class CountedFile(Counted):
    """A file, counted, which can tell its length."""

    def __init__(self, file: BinaryIO, count: Count) -> None:
        super().__init__(file, count)
        self._number = file.fileno()

    def fileno(self) -> int:
        """The file's descriptor, of which httpx asks the length."""
        return self._number
