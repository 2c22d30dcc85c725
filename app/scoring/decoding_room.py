"""Limit on the number of pixels that are decoded at the same time, which bounds memory use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DecodingRoom:
    """Limit on the number of pixels that are decoded at the same time.

    Only one waiting thread at a time gets room, so that small images cannot pass a large one again and again.

    Decoders take up to 16 bytes a pixel (WebP), so this bounds the memory of decoding.

    Args:
        pixels: Most pixels. An image that has more is decoded alone.
    """

    def __init__(self, pixels: int) -> None:
        self._capacity = self._free = pixels
        self._first = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Context manager that waits for room to decode an image, within a limit on pixels decoded at once.

        The room is free again when the block ends.

        Args:
            pixels: Pixels of the image, by its header.
        """
        pixels = min(pixels, self._capacity)
        # Only the first in line looks for room. Otherwise small images would pass a large one again and again.
        with self._first, self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
