"""An in-memory image file with a limited number of reads, whose decoding can be abandoned."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from snf_runtime.errors import unsupported_image

FREE_READS = 1024
"""Reads of a file of any size: a header has about twenty; each marker, block and tag has its own, in slow Python."""
BYTES_A_READ = 256
"""Bytes of a file that allow one more read. A chunk of a PNG file has three reads, and usually 8 KiB."""
BYTES_A_SHORT_READ = 32
"""Bytes that allow one more read of a GIF or TIFF file, whose blocks and strips are small."""
STARTS_OF_SHORT_READS = (b"GIF8", b"II", b"MM")
READS_A_PAUSE = 64
"""Reads between two pauses for other threads: Pillow keeps the interpreter while it parses many small parts."""
PAUSE_S = 5e-5
"""Seconds of a pause. A sleep of 0 s is too short: the waiting threads have not woken up when it ends."""


class DecodingAbandoned(BaseException):
    """Raised to stop decoding; no ``Exception``, as Pillow and the handlers of damaged files catch those."""


def never() -> bool:
    return False


class BoundedFile(io.BytesIO):
    """Image file in memory whose number of reads is limited by size and format; each read can abandon decoding."""

    def __init__(self, data: bytes, is_abandoned: Callable[[], bool] = never) -> None:
        super().__init__(data)
        bytes_a_read = BYTES_A_SHORT_READ if data.startswith(STARTS_OF_SHORT_READS) else BYTES_A_READ
        self._most = self._left = FREE_READS + len(data) // bytes_a_read
        self._is_abandoned = is_abandoned

    def read(self, size: int | None = -1, /) -> bytes:
        """Raise ``ImageError`` for a file in too many parts, ``DecodingAbandoned`` if it is no longer needed."""
        self._left -= 1
        if self._left < 0:
            raise unsupported_image(
                f"expected a file of at most {self._most} parts, as its size allows, got more; save it anew"
            )
        if self._is_abandoned():
            raise DecodingAbandoned
        if (self._most - self._left) % READS_A_PAUSE == 0:
            time.sleep(PAUSE_S)
        return super().read(size)
