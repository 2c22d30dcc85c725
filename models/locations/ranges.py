"""Reading of many byte ranges with few requests."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

GAP_BYTES = 2**20
"""Bytes between two ranges up to which both are read with one request: reading them takes less time than a request."""
REQUEST_BYTES = 16 * 2**20
"""Bytes from which on a request is not merged with the next range."""
REQUESTS = 8
"""Requests at the same time."""


def merge(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return few byte ranges ``(start, stop)``, rising and disjoint, that cover all given ones.

    >>> merge([(0, 10), (5_000_000, 5_000_010), (20, 30)])
    [(0, 30), (5000000, 5000010)]
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged:
            first, last = merged[-1]
            if start < last or (start - last <= GAP_BYTES and stop - first <= REQUEST_BYTES):
                merged[-1] = first, max(last, stop)
                continue
        merged.append((start, stop))
    return merged


def read_merged(read: Callable[[int, int], bytes], ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of each range, read by few calls of ``read``, several at the same time."""
    merged = merge(ranges)
    if len(merged) <= 1:
        pieces = [read(*span) for span in merged]
    else:
        with ThreadPoolExecutor(min(REQUESTS, len(merged)), "ranges") as pool:
            pieces = list(pool.map(lambda span: read(*span), merged))
    starts = [start for start, _ in merged]

    def cut(start: int, stop: int) -> bytes:
        place = bisect_right(starts, start) - 1
        return pieces[place][start - starts[place] : stop - starts[place]]

    return [cut(start, stop) for start, stop in ranges]
