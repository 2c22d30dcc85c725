"""Limit on the number of pixels that are decoded at the same time, which bounds memory use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DecodingRoom:
    """Limit on pixels decoded at once, each up to 16 bytes (WebP); small images cannot pass a large one."""

    def __init__(self, pixels: int) -> None:
        self._capacity = self._free = pixels
        self._first = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait for room for an image of ``pixels`` pixels, which the block holds."""
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
