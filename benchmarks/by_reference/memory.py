"""Resident memory of processes, sampled once a second, and how fast it grows."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

from benchmarks.installation import resident_bytes
from benchmarks.repeated import Repeated

MAX_MIB_AN_HOUR = 16.0
"""Growth that still counts as flat."""
SHORTEST_S = 180.0
"""Half a life of less says nothing: allocators move some MiB to and fro."""
POINTS = 200
"""Samples of a half whose slope is taken."""
Samples = list[tuple[float, int]]
"""Moments in seconds and bytes."""


class Memory(Repeated):
    """A thread that samples the resident memory of processes once a second.

    Args:
        processes: Returns the processes, and what each is.
    """

    def __init__(self, processes: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(1.0)
        self._processes = processes
        self._samples: dict[tuple[str, int], Samples] = defaultdict(list)

    def turn(self) -> None:
        """Take a sample of each process."""
        for pid, kind in self._processes().items():
            with suppress(OSError, StopIteration):  # it ended meanwhile
                self._samples[kind, pid].append((time.monotonic(), resident_bytes(pid)))

    def growth(self) -> dict[str, dict[str, Any]]:
        """Return the memory of the process of each kind that lived longest."""
        longest: dict[str, Samples] = {}
        for (kind, _), samples in self._samples.items():
            longest[kind] = max(longest.get(kind, []), samples, key=len)
        return {kind: growth_of(samples) for kind, samples in longest.items()}


def growth_of(samples: Samples) -> dict[str, Any]:
    """Return the slope over the second half of a process's life, and the most that it took in either half."""
    middle = (samples[0][0] + samples[-1][0]) / 2
    first = [one for one in samples if one[0] <= middle]
    second = [one for one in samples if one[0] > middle]
    return {
        "seconds": samples[-1][0] - samples[0][0],
        "first_half_most_mib": max(size for _, size in first) / 2**20,
        "second_half_most_mib": max((size for _, size in second), default=0) / 2**20,
        "mib_an_hour": slope(second[:: 1 + len(second) // POINTS]) * 3600 / 2**20,
        "long_enough": samples[-1][0] - middle >= SHORTEST_S,
        "by_minute_mib": [round(size / 2**20, 1) for size in by_minute(samples)],
    }


def by_minute(samples: Samples) -> list[float]:
    """Return the median of each minute, in bytes."""
    minutes: dict[int, list[int]] = defaultdict(list)
    for moment, size in samples:
        minutes[int((moment - samples[0][0]) // 60)].append(size)
    return [statistics.median(sizes) for sizes in minutes.values()]


def slope(samples: Samples) -> float:
    """Return bytes a second: the median of the slopes between all pairs, which single peaks do not move."""
    pairs = [(late[1] - early[1]) / (late[0] - early[0]) for early, late in combinations(samples, 2)]
    return statistics.median(pairs) if pairs else 0.0
