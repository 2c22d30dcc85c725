"""Whether the p-values of recent images are those of images like the calibration images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import kolmogorov

LOW = 0.05
"""P-values up to this one are counted in :attr:`DriftResult.low_share`."""


@dataclass(frozen=True)
class DriftResult:
    """A verdict on a window of p-values.

    ``low_share`` and ``mean_p`` say in which direction it went: without drift they are about 0.05 and 0.5; strange
    images raise the first and lower the second, images that are all too usual do the opposite.
    """

    images: int
    statistic: float
    p_value: float
    low_share: float
    mean_p: float
    alarm: bool


def drift_test(p_values: ArrayLike, calibration_images: int, smallest_p: float, level: float) -> DriftResult:
    """Return the two-sample Kolmogorov-Smirnov test of a window against its calibration set.

    D = sup |F_m(r) - r / (n + 1)| over the attainable ranks r = p (n + 1), and its p-value is that of Kolmogorov's
    distribution at D sqrt(n m / (n + m)), for ``p_values`` ``(m,)`` and n = ``calibration_images``; it is an alarm
    where that is at most ``level``.

    The effective size n m / (n + m) is why one calibration set, which is never quite its distribution, raises no false
    alarm, however large m grows: uniform p-values are promised on average over calibration sets only (Vovk 2012,
    "Conditional validity of inductive conformal predictors"). A two-sided p-value takes every second rank alone, and
    its ``smallest_p``, 2 / (n + 1), says so; the limit of D is the same, as a Brownian bridge that is folded gives
    one. The limit errs towards silence in small sets. Raises ``ValueError`` for an empty window, a calibration set
    without images, or a p-value outside (0, 1].
    """
    p = np.sort(np.asarray(p_values, dtype=np.float64))
    m, n = len(p), calibration_images
    if m == 0 or n < 1:
        raise ValueError(f"a window and a calibration set of at least one image are expected, got {m} and {n}")
    if not (p[0] > 0 and p[-1] <= 1):
        raise ValueError(f"p-values in (0, 1] are expected, got {p[0]} to {p[-1]}")
    statistic = _distance(np.rint(p * (n + 1)), n, max(1.0, round(smallest_p * (n + 1))))
    p_value = float(kolmogorov(statistic * math.sqrt(n * m / (n + m))))
    return DriftResult(
        images=m,
        statistic=statistic,
        p_value=p_value,
        low_share=low_share(p),
        mean_p=float(p.mean()),
        alarm=p_value <= level,
    )


def low_share(p_values: ArrayLike) -> float:
    """Return the share of p-values ``(m,)``, m > 0, that are at most :data:`LOW`; 0.05 or less without drift."""
    # A rank over n + 1 that is 0.05 by arithmetic on paper may be a last bit above it here.
    return float(np.mean(np.asarray(p_values, dtype=np.float64) <= LOW + 1e-9))


def _distance(ranks: np.ndarray[tuple[int, ...], np.dtype[np.float64]], n: int, step: float) -> float:
    m = len(ranks)
    below = np.arange(m) / m
    # Both sides of every jump of F_m; of equal ranks the last, respectively the first, is the farther one.
    above = (below + 1 / m - ranks / (n + 1)).max()
    return float(max(above, ((ranks - step) / (n + 1) - below).max()))
