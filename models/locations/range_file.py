"""Read-only file object that fetches its content in byte ranges."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class RangeFile(io.RawIOBase):
    """Read-only, seekable binary file object that fetches byte ranges of its content on demand.

    Each part is read by a call of ``read(start, stop)``, without a buffer.

    Args:
        read: Returns the bytes ``start`` to ``stop - 1``.
        size: Size of the file in bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read = read
        self.size = size
        self._position = 0

    def readable(self) -> bool:
        """Return True, because the file is open for reading."""
        return True

    def seekable(self) -> bool:
        """Return True, because the position in the file can be changed."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte to read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte position in the file, and return this position counted from the start.

        Raises ``ValueError`` for a position before the first byte.
        """
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if position < 0:
            raise ValueError(f"expected a position of at least 0, got {position}")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and return the next bytes of the file, and move the position past them.

        There are ``size`` bytes unless the file ends before, and all that follow if ``size`` is -1.
        """
        stop = self.size if size is None or size < 0 else min(self._position + size, self.size)
        if stop <= self._position:
            return b""
        data = self._read(self._position, stop)
        self._position = stop
        return data

    def readall(self) -> bytes:
        """Return all bytes from the current position to the end of the file."""
        return self.read()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer with the next bytes of the file, and return how many bytes were read."""
        with memoryview(buffer) as view, view.cast("B") as target:
            data = self.read(len(target))
            target[: len(data)] = data
        return len(data)
