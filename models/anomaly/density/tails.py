"""How surprising a value is among reference values: -ln P(T >= t), and beyond them by an exponential tail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POINTS = 256
"""Points of the stored survival function."""
TAIL = 0.05
"""Share of the reference values that the tail is fitted to."""
MIN_TAIL_VALUES = 5
"""Values that the tail is fitted to at least."""


@dataclass(frozen=True)
class Tail:
    """The survival function of one statistic; no p-value comes from it, it only makes statistics comparable.

    ``values`` and ``surprises``: points of t -> -ln P(T >= t), both rising, ``(POINTS,)``. ``slope``: what a unit of t
    adds beyond the last of them, one over the mean excess there (a generalised Pareto tail of shape 0).
    """

    values: Array
    surprises: Array
    slope: Array

    @classmethod
    def fit(cls, reference: Array) -> Self:
        """Fit to reference values, ``(n,)``."""
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
        """Return -ln P(T >= t) of each value, in nats."""
        # T >= t takes in all that equals t: of tied points the first one counts, which interpolation finds just below.
        inside = np.interp(np.nextafter(t, -np.inf), self.values, self.surprises)
        beyond = np.maximum(t - self.values[-1], 0)
        found: Array = inside + self.slope * beyond
        return found
