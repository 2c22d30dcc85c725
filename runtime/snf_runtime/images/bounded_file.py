"""An in-memory image file with a limited number of reads, whose decoding can be abandoned."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from snf_runtime.errors import unsupported_image

FREE_READS = 1024
"""Reads of a file of any size. Pillow reads a header in about twenty reads, and pixels in blocks; it also reads each
marker, block and tag of a file on its own, in slow Python code."""
BYTES_A_READ = 256
"""Bytes of a file that allow one more read. A chunk of a PNG file has three reads, and usually 8 KiB."""
BYTES_A_SHORT_READ = 32
"""Bytes that allow one more read of a GIF file, whose blocks have two reads for at most 255 bytes, and of a TIFF file,
whose strips may be rows."""
STARTS_OF_SHORT_READS = (b"GIF8", b"II", b"MM")
"""First bytes of GIF and of TIFF files."""
READS_A_PAUSE = 64
"""Reads between two pauses, in which other threads get the interpreter. Pillow keeps it while it parses many small
parts, and scores of other callers then take a second."""
PAUSE_S = 5e-5
"""Seconds of a pause. A sleep of 0 s is too short: the waiting threads have not woken up when it ends."""


class DecodingAbandoned(BaseException):
    """Raised to stop the decoding of an image that is no longer needed.

    It is no ``Exception``, because Pillow and the handlers of damaged files catch those.
    """


def never() -> bool:
    """Return False, which means that the decoding of an image is not abandoned.

    This is the default of ``is_abandoned``.
    """
    return False


class BoundedFile(io.BytesIO):
    """Image file in memory that allows a limited number of reads, as a guard against slow decoding.

    The limit depends on the size and the format of the file. Decoding can be abandoned at each read.

    Args:
        data: Content of the file.
        is_abandoned: Returns whether the image is no longer needed; asked before each part.
    """

    def __init__(self, data: bytes, is_abandoned: Callable[[], bool] = never) -> None:
        super().__init__(data)
        bytes_a_read = BYTES_A_SHORT_READ if data.startswith(STARTS_OF_SHORT_READS) else BYTES_A_READ
        self._most = self._left = FREE_READS + len(data) // bytes_a_read
        self._is_abandoned = is_abandoned

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next ``size`` bytes of the image file, or all remaining bytes if no size is given.

        Raises:
            ImageError: The file is in too many parts.
            DecodingAbandoned: The image is no longer needed.
        """
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
