"""Survival functions P(T >= t) of statistics, with an exponential tail beyond the largest reference values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POINTS = 256
"""Points of the stored survival function."""
TAIL = 0.05
"""Share of the reference values to which the tail is fitted."""
MIN_TAIL_VALUES = 5
"""Smallest number of values to which the tail is fitted."""


@dataclass(frozen=True)
class Tail:
    """Survival function P(T >= t) of a statistic T, estimated from normal images.

    It follows the observed values, with an exponential tail for large t.

    Its logarithm makes different statistics comparable. P-values do not come from it, but from the ranks of
    calibration images.

    Attributes:
        values: Points t of the survival function, rising, ``(POINTS,)``.
        surprises: -ln P(T >= t) at these points in nats, rising, ``(POINTS,)``.
        slope: The surprise that a unit of t adds beyond the last point: one over the mean excess there (a generalised
            Pareto tail of shape 0).
    """

    values: Array
    surprises: Array
    slope: Array

    @classmethod
    def fit(cls, reference: Array) -> Self:
        """Fit a survival function P(T >= t) to the values of a statistic T on normal images.

        The values are ``(n,)`` for n images.
        """
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
        """Return the negative log survival function -ln P(T >= t), in nats, of the statistic T of normal images.

        This surprise rises with t.
        """
        # T >= t includes the values equal to t: among tied points the first counts, which lies just below t.
        inside = np.interp(np.nextafter(t, -np.inf), self.values, self.surprises)
        beyond = np.maximum(t - self.values[-1], 0)
        surprise: Array = inside + self.slope * beyond
        return surprise
