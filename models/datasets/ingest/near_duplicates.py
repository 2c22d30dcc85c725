"""Near duplicates among many images: 64-bit hashes that differ in few bits, found without comparing all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

DISTANCE = 3
BANDS = (13, 13, 13, 13, 12)
"""Bits of the five parts of a hash. Of two hashes that differ in 3 bits, at least two parts are equal."""
MAX_NEIGHBOURS = 512
"""Hashes that share two parts with more others than this are compared with so many of them only."""


def near_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the pairs ``(P, 2)`` of places in ``hashes``, all different, whose Hamming distance is at most 3.

    One sort for each of the ten choices of two parts out of five: O(N log N) where hashes are spread, against the
    O(N²) of all pairs. By the pigeonhole principle none is missed, but in crowds beyond ``MAX_NEIGHBOURS``.

    >>> near_pairs(np.array([0b0, 0b111, 0b1111], dtype=np.uint64)).tolist()
    [[0, 1], [1, 2]]
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    for mask in _masks():
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        left = np.arange(len(hashes))
        for offset in range(1, MAX_NEIGHBOURS + 1):
            left = left[left + offset < len(hashes)]
            left = left[keys[left] == keys[left + offset]]
            if not len(left):
                break
            near = left[np.bitwise_count(sorted_hashes[left] ^ sorted_hashes[left + offset]) <= DISTANCE]
            found.append(np.sort(np.stack([order[near], order[near + offset]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _masks() -> list[np.uint64]:
    """Return the ten masks that keep two of the five parts."""
    ends = np.cumsum(BANDS)
    parts = [((1 << int(size)) - 1) << int(end - size) for size, end in zip(BANDS, ends, strict=True)]
    return [np.uint64(first | second) for first, second in combinations(parts, 2)]
