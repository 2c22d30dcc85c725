"""The plateau of a learning curve: whether the last part of a training still made the model better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LAST_PART = 0.25
"""The last part of a curve, as a share of its steps."""
TOLERANCE = 1e-3
"""Largest gain of the last part at a plateau, as a share of the value at the end: 0.95 nats at 947."""
MIN_POINTS = 5


@dataclass(frozen=True)
class Plateau:
    """What the last quarter of the steps of a training gained, by a straight line through its points."""

    gain: float
    error: float
    most: float
    points: int
    best_step: int

    @property
    def reached(self) -> bool:
        """Whether gain or loss is small, two standard errors of a gain included, and known well enough to say so."""
        known = self.points >= MIN_POINTS and 2 * self.error <= self.most
        return known and not self.past_best and self.gain + 2 * self.error <= self.most

    @property
    def past_best(self) -> bool:
        """Whether the last quarter has made the model worse, by more than a gain may be at a plateau."""
        return self.gain < -self.most

    def __str__(self) -> str:
        if self.points < MIN_POINTS:
            return f"too few points ({self.points}) in the last quarter of the curve"
        state = "at its plateau" if self.reached else "**not at its plateau**"
        if self.past_best:
            state = f"**past its best (step {self.best_step})**"
        return f"{state}: the last quarter gained {self.gain:.2f} ± {self.error:.2f} nats"


def plateau_of(steps: Sequence[float], nats: Sequence[float]) -> Plateau:
    """Return the gain of the last quarter of a curve.

    >>> plateau_of(range(100), [640.0] * 100).reached
    True
    """
    chosen = [(step, value) for step, value in zip(steps, nats, strict=True) if step >= (1 - LAST_PART) * steps[-1]]
    x, y = np.array(chosen, dtype=float).T
    most = TOLERANCE * abs(float(nats[-1]))
    best_step = int(steps[int(np.argmin(nats))])
    if len(chosen) < MIN_POINTS:
        return Plateau(float("nan"), float("nan"), most, len(chosen), best_step)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residuals = y - y.mean() - slope * centred
    error = float(np.sqrt(residuals @ residuals / (len(x) - 2) / (centred @ centred)))
    length = LAST_PART * float(steps[-1])
    return Plateau(-slope * length, error * length, most, len(chosen), best_step)
