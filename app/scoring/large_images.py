"""Limits on the pixels of a request's images, and on the pixels of large images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.http.errors import Problem
from app.http.shares import FairShares
from snf_runtime.images.policy import MAX_PIXELS

SECONDS_PER_MEGAPIXEL = 3.0
"""Time that the default deadline of a request grows by for each million pixels of its large images: several times that
of one core."""
WAIT_S = 10
"""Wait that a refusal asks for, in seconds."""


def check_pixels(pixels: int, most: int = 2 * MAX_PIXELS) -> None:
    """Raise a 413 error if the images of a request have too many pixels in total.

    Args:
        pixels: Pixels of all images of the request, by their headers.
        most: Most pixels, those of two of the largest images.
    """
    if pixels > most:
        raise _too_many(f"the image files of one request may have {most} pixels together, got {pixels}")


class LargeImages:
    """Limit on the pixels of full-size images in memory, shared fairly among the callers of the service.

    It is for models that score images tile by tile in their full size. Images count from before they are decoded until
    they are scored.

    Images of other models are brought to a small size when they are decoded, and do not count.

    Args:
        max_pixels: Most pixels of a request, and of all open requests.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._pixels = FairShares(max_pixels, max_pixels)

    @contextmanager
    def hold(self, caller: str, pixels: int) -> Iterator[None]:
        """Context manager that counts the pixels of a request's images against the limit on pixels in memory.

        Args:
            caller: Name of the caller.
            pixels: Pixels of all images of the request, by their headers.

        Raises:
            Problem: 413 where a request may never hold as many pixels, 429 where it may not now.
        """
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
