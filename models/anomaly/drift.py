"""Tests for drift of recent images from the calibration images, by p-values and by brightness.

The brightness is the white level of an image, the 99 % quantile of its pixel values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from snf_runtime.scoring.white_level import LEVELS

LOW = 0.05
"""Largest p-value that counts in :attr:`DriftResult.low_share`."""


@dataclass(frozen=True)
class DriftResult:
    """Result of a Kolmogorov-Smirnov test for drift in the p-values of recent images.

    The test compares the p-values of recent images with the uniform distribution that those of normal images have.

    Attributes:
        images: The number of recent images.
        statistic: The Kolmogorov-Smirnov distance.
        p_value: The p-value of the test.
        low_share: The share of p-values up to 0.05; about 0.05 without drift, more where images are more anomalous.
        mean_p: The mean p-value; about 0.5 without drift, less where images are more anomalous.
        alarm: Whether the p-value of the test is at most its level.
    """

    images: int
    statistic: float
    p_value: float
    low_share: float
    mean_p: float
    alarm: bool


def drift_test(p_values: ArrayLike, calibration_images: int, smallest_p: float, level: float) -> DriftResult:
    """Test recent images for drift by a Kolmogorov-Smirnov test of their p-values.

    The p-values of m recent images are compared with the uniform distribution over the ranks that n calibration images
    make attainable. The result is an alarm if the p-value of the test is at most ``level``.

    The test is a two-sample test of whether the recent images are distributed like the calibration images.

    The statistic is D = sup |F_m(r) - r / (n + 1)| over the attainable ranks r = p (n + 1). Its p-value is that of
    Kolmogorov's distribution at D sqrt(n m / (n + m)).

    The effective size n m / (n + m) prevents false alarms in large windows: p-values are uniform only on average over
    calibration sets, and any single set differs from its distribution (Vovk 2012, "Conditional validity of inductive
    conformal predictors"). A two-sided p-value takes every second rank only, so its ``smallest_p`` is 2 / (n + 1). The
    limit of D is the same, as a folded Brownian bridge is a Brownian bridge. In small sets the test is conservative.

    Args:
        p_values: The p-values of recent images, ``(m,)``.
        calibration_images: The number n of calibration images.
        smallest_p: The smallest attainable p-value.
        level: The largest p-value of the test that is an alarm.

    Raises:
        ValueError: There are no p-values or no calibration images, or a p-value is outside (0, 1].
    """
    p = np.sort(np.asarray(p_values, dtype=np.float64))
    m, n = len(p), calibration_images
    if m == 0 or n < 1:
        raise ValueError(f"a window and a calibration set of at least one image are expected, got {m} and {n}")
    if not (p[0] > 0 and p[-1] <= 1):
        raise ValueError(f"p-values in (0, 1] are expected, got {p[0]} to {p[-1]}")
    statistic = _distance(np.rint(p * (n + 1)), n, max(1.0, round(smallest_p * (n + 1))))
    p_value = _kolmogorov(statistic * math.sqrt(n * m / (n + m)))
    return DriftResult(
        images=m,
        statistic=statistic,
        p_value=p_value,
        low_share=low_share(p),
        mean_p=float(p.mean()),
        alarm=p_value <= level,
    )


@dataclass(frozen=True)
class LevelDrift:
    """Result of a Kolmogorov-Smirnov test for drift in the brightness (white level) of recent images.

    The white level of an image is the 99 % quantile of its pixel values.

    The test compares the white levels of recent images with those of normal images.

    Attributes:
        statistic: The Kolmogorov-Smirnov distance.
        p_value: The p-value of the test.
        median: The median level of the recent images.
        usual: The median level of the normal images.
    """

    statistic: float
    p_value: float
    median: int
    usual: int


def level_test(levels: ArrayLike, calibration: ArrayLike) -> LevelDrift:
    """Test whether the brightness of recent images differs from that of calibration images.

    Brightness is measured by the white level. The test is that of Kolmogorov and Smirnov.

    The white level of an image is the 99 % quantile of its pixel values.

    The levels of m recent images are compared with those of n calibration images by a two-sample test.

    The statistic is D = sup |F_m(v) - F_n(v)| over the levels v. Its p-value is that of Kolmogorov's distribution at
    D sqrt(n m / (n + m)); equal levels make the test conservative.

    Args:
        levels: White levels of recent images, 0 to 255, ``(m,)``.
        calibration: The number of calibration images of each level, ``(256,)``.

    Raises:
        ValueError: There are no levels, or no calibration images.
    """
    recent = np.bincount(np.asarray(levels, dtype=np.int64), minlength=LEVELS)
    usual = np.asarray(calibration, dtype=np.int64)
    m, n = int(recent.sum()), int(usual.sum())
    if m == 0 or n == 0:
        raise ValueError(f"a window and a calibration set of at least one image are expected, got {m} and {n}")
    shares = recent.cumsum() / m, usual.cumsum() / n
    statistic = float(np.abs(shares[0] - shares[1]).max())
    p_value = _kolmogorov(statistic * math.sqrt(n * m / (n + m)))
    median, median_usual = (int(np.searchsorted(share, 0.5)) for share in shares)
    return LevelDrift(statistic, p_value, median, median_usual)


def low_share(p_values: ArrayLike) -> float:
    """Return the share of p-values that are at most 0.05.

    ``p_values`` has the shape ``(m,)`` with m > 0.
    """
    # A rank over n + 1 that equals 0.05 exactly may be rounded to a float just above it.
    return float(np.mean(np.asarray(p_values, dtype=np.float64) <= LOW + 1e-9))


def _distance(ranks: np.ndarray[tuple[int, ...], np.dtype[np.float64]], n: int, step: float) -> float:
    m = len(ranks)
    below = np.arange(m) / m
    # Both sides of every jump of F_m; of equal ranks the last or the first is the farthest.
    above = (below + 1 / m - ranks / (n + 1)).max()
    return float(max(above, ((ranks - step) / (n + 1) - below).max()))


def _kolmogorov(distance: float) -> float:
    """Return the probability that the scaled distance of two empirical distributions is at least ``distance``."""
    from scipy.special import kolmogorov  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    return float(kolmogorov(distance))
