"""Limits on the pixels of a request's images, and on the pixels of large images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem
from snf_runtime.images.policy import MAX_PIXELS

SECONDS_PER_MEGAPIXEL = 3.0
"""Growth of the default deadline for large images: several times the time of one core."""
WAIT_S = 10
"""Seconds that a refusal asks to wait."""


def check_pixels(pixels: int, most: int = 2 * MAX_PIXELS) -> None:
    """Raise ``Problem`` 413 for more pixels, by the headers, than two of the largest images have."""
    if pixels > most:
        raise _too_many(f"the image files of one request may have {most} pixels together, got {pixels}")


class LargeImages:
    """Limit on pixels in memory, shared fairly, of images that tile models score in full size."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._pixels = FairShares(max_pixels, max_pixels)

    @contextmanager
    def hold(self, caller: str, pixels: int) -> Iterator[None]:
        """Count pixels while the block runs; raise ``Problem`` 413 if never possible, 429 if not now."""
        if pixels > self._pixels.capacity:
            raise _too_many(
                f"images of this model keep their size, and one request may carry {self._pixels.capacity} pixels of "
                f"them, got {pixels}"
            )
        if not self._pixels.take(caller, pixels):
            raise Problem(
                429,
                "queue-full",
                "Too many large images are being scored",
                f"{pixels} pixels came, and {self._pixels.free} of {self._pixels.capacity} are free: a caller may hold "
                f"at most what stays free for others; try again in about {WAIT_S} s",
                headers={"Retry-After": str(WAIT_S)},
            )
        try:
            yield
        finally:
            self._pixels.give_back(caller, pixels)


def _too_many(detail: str) -> Problem:
    return Problem(413, "too-many-pixels", "Too many pixels", f"{detail}; split it into several")
