"""Pairs of 64-bit hashes that differ in few bits, found without comparing all pairs."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NearDuplicates = Literal["keep", "drop"]
DISTANCE = 3
BANDS = (13, 13, 13, 13, 12)
"""Bits of the five parts of a hash. Two hashes that differ in 3 bits have at least two equal parts."""
MAX_NEIGHBOURS = 512
"""Most neighbours with which a hash is compared, among those that share two parts with it."""


class KeptHashes:
    def __init__(self) -> None:
        self._hashes = np.empty(1024, dtype=np.uint64)
        self._paths: list[str] = []

    def twin(self, dhash: int) -> str | None:
        """Return the path of the first kept image whose hash differs in at most 3 bits, or None.

        >>> kept = KeptHashes()
        >>> kept.add(0b0, "a.png")
        >>> kept.twin(0b111), kept.twin(0b1111)
        ('a.png', None)
        """
        distances = np.bitwise_count(self._hashes[: len(self._paths)] ^ np.uint64(dhash))
        near = np.flatnonzero(distances <= DISTANCE)
        return self._paths[near[0]] if len(near) else None

    def add(self, dhash: int, path: str) -> None:
        if len(self._paths) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._paths)] = dhash
        self._paths.append(path)


def near_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return index pairs, ``(pairs, 2)``, of hashes that differ in at most 3 bits, in O(N log N) for spread ones.

    >>> near_pairs(np.array([0b0, 0b111, 0b1111], dtype=np.uint64)).tolist()
    [[0, 1], [1, 2]]
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
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
            pairs.append(np.sort(np.stack([order[near], order[near + offset]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _masks() -> list[np.uint64]:
    """Return the ten masks that keep two of the five parts of a hash."""
    ends = np.cumsum(BANDS)
    parts = [((1 << int(size)) - 1) << int(end - size) for size, end in zip(BANDS, ends, strict=True)]
    return [np.uint64(first | second) for first, second in combinations(parts, 2)]
