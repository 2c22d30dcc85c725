"""Paired rounds: the sides take turns, and what is reported is the ratio within a round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

WARM_UP = 1
"""Rounds that are not counted."""

Turn = Callable[[], float]
"""Does a side's work once and returns the seconds it took."""


@dataclass(frozen=True)
class Ratio:
    """The ratios of paired rounds: median, least, greatest, and how many rounds there were."""

    median: float
    least: float
    greatest: float
    rounds: int

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """What a median should be: at least ``low`` and at most ``high``.

    >>> Target(low=1.65).met(1.7), Target(high=0.05).met(0.06), str(Target(0.95, 1.05))
    (True, False, '0.95 to 1.05')
    """

    low: float = -math.inf
    high: float = math.inf

    def met(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f">= {self.low:g}"
        if math.isinf(self.low):
            return f"<= {self.high:g}"
        return f"{self.low:g} to {self.high:g}"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Return the ratios of paired rounds.

    >>> ratio([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])
    Ratio(median=2.0, least=1.5, greatest=4.0, rounds=3)
    """
    found = np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float)
    return Ratio(float(np.median(found)), float(found.min()), float(found.max()), len(found))


def in_turns(sides: Mapping[str, Turn], rounds: int, warm_up: int = WARM_UP) -> dict[str, list[float]]:
    """Let every side take its turn, round after round; return the seconds of each round by side.

    >>> in_turns({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=2)
    {'a': [1.0, 1.0], 'b': [2.0, 2.0]}
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name, turn in sides.items():
            took = turn()
            if number >= warm_up:
                seconds[name].append(took)
    return seconds


def timed(work: Callable[[], Any], repeat: int = 1, finish: Callable[[], None] = lambda: None) -> Turn:
    """Return a turn that does ``work`` ``repeat`` times and then waits by ``finish``; its seconds are those of one."""

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(repeat):
            work()
        finish()
        return (time.perf_counter() - began) / repeat

    return turn


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of log value over log size by least squares: values grow as size to that power.

    >>> round(exponent([1, 10, 100], [5.0, 500.0, 50000.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(values, dtype=float)), 1)[0])
