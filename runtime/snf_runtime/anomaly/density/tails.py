"""Survival functions P(T >= t) of statistics, with an exponential tail beyond the largest reference values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POINTS = 256
TAIL = 0.05
"""Share of the reference values to which the tail is fitted."""
MIN_TAIL_VALUES = 5


@dataclass(frozen=True)
class Tail:
    """Survival function P(T >= t) of normal images; its log makes statistics comparable, but gives no p-values."""

    values: Array
    surprises: Array  # -ln P(T >= t) in nats, rising
    slope: Array  # nats for a unit of t beyond the last point: a generalised Pareto tail of shape 0

    @classmethod
    def fit(cls, reference: Array) -> Self:
        ordered = np.sort(reference)
        count = len(ordered)
        kept = max(1, count - max(MIN_TAIL_VALUES, round(TAIL * count)))
        threshold = ordered[kept - 1]
        places = np.unique(np.linspace(0, kept - 1, POINTS).round().astype(int))
        surprises = -np.log1p(-(places + 0.5) / (count + 1))
        excess = float(np.mean(ordered[kept:] - threshold)) if kept < count else 0.0
        scale = max(excess, 1e-3 * float(ordered.std()), 1e-9)
        values = np.interp(np.linspace(0, 1, POINTS), np.linspace(0, 1, len(places)), ordered[places])
        risen = np.interp(np.linspace(0, 1, POINTS), np.linspace(0, 1, len(places)), surprises)
        return cls(values, risen, np.array(1 / scale))

    def surprise(self, t: Array) -> Array:
        """Return -ln P(T >= t) in nats."""
        # T >= t includes the values equal to t: among tied points the first counts, which lies just below t.
        inside = np.interp(np.nextafter(t, -np.inf), self.values, self.surprises)
        beyond = np.maximum(t - self.values[-1], 0)
        surprise: Array = inside + self.slope * beyond
        return surprise
