"""Standardisation of statistics given the complexity of an image, the entropy of its prediction residuals.

The log-density of a flow depends on how complex an image is. Statistics are compared with images of like complexity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PPoly

Array = NDArray[np.float64]

MIN_IMAGES_CURVE, MIN_IMAGES_LINE = 200, 40
"""Images from which on mean and spread are curves of complexity, or straight lines; constants with fewer."""
KNOTS = 4
FLOOR = 1e-3
"""Smallest residual, as a share of their standard deviation: the logarithm of a spread must stay finite."""
MIN_SPREAD = 1e-9


@dataclass(frozen=True)
class Conditioning:
    """Z-scores (s - m(c)) / σ(c) of statistics s: m and σ are mean and deviation at image complexity c, an entropy.

    m and log σ are natural cubic splines of c, continued as straight lines outside the range of the reference images.

    Attributes:
        knots: Knots of c, ``(k,)``; with a single knot m and σ are constant.
        mean: m at the knots, ``(k, K)`` for K statistics.
        log_spread: log σ at the knots, ``(k, K)``.
        lowest: The smallest log σ over the reference images, ``(K,)``: σ is not extrapolated.
        highest: The largest log σ over the reference images, ``(K,)``.
    """

    knots: Array
    mean: Array
    log_spread: Array
    lowest: Array
    highest: Array

    @classmethod
    def fit(cls, statistics: Array, complexity: Array) -> Self:
        """Fit the mean and the standard deviation of K statistics as curves over image complexity, by least squares.

        The mean is fitted first, then the log of the residuals.

        Args:
            statistics: K statistics of n images, ``(n, K)``.
            complexity: Their complexities, ``(n,)``.
        """
        knots = _knots(complexity)
        basis = _basis(complexity, knots)
        mean = _solve(basis, statistics)
        rest = np.abs(statistics - basis @ mean)
        floor = np.maximum(FLOOR * np.sqrt(np.square(rest).mean(0)), MIN_SPREAD)
        log_spread = _solve(basis, np.log(np.maximum(rest, floor)))
        # The mean of the logarithm is not the logarithm of the deviation: one factor for each statistic corrects that.
        z = rest / np.exp(basis @ log_spread)
        log_spread = log_spread + np.log(np.maximum(np.sqrt(np.square(z).mean(0)), MIN_SPREAD))
        fitted = basis @ log_spread
        return cls(knots, mean, log_spread, np.maximum(fitted.min(0), np.log(MIN_SPREAD)), fitted.max(0))

    def __call__(self, statistics: Array, complexity: Array) -> Array:
        """Return statistics, ``(N, K)``, as z-scores relative to images of the same complexity, given as ``(N,)``."""
        basis = _basis(complexity, self.knots)
        spread = np.exp(np.clip(basis @ self.log_spread, self.lowest, np.maximum(self.lowest, self.highest)))
        return (statistics - basis @ self.mean) / spread


def _knots(complexity: Array) -> Array:
    count = len(complexity)
    wanted = KNOTS if count >= MIN_IMAGES_CURVE else 2 if count >= MIN_IMAGES_LINE else 1
    knots = np.unique(np.quantile(complexity, np.linspace(0, 1, wanted)))
    # Where most images are equally complex, knots coincide, and a curve would oscillate between them.
    return knots if len(knots) == wanted else knots[:1]


def _basis(complexity: Array, knots: Array) -> Array:
    """Return the cardinal spline functions at N complexities, ``(N, k)``: each is 1 at one knot and 0 at the rest."""
    if len(knots) == 1:
        return np.ones((len(complexity), 1))
    if len(knots) == 2:
        share = (complexity - knots[0]) / (knots[1] - knots[0])
        return np.stack([1 - share, share], 1)
    spline, slope = _splines(tuple(knots.tolist()))
    inside = np.clip(complexity, knots[0], knots[-1])
    beyond = (complexity - inside)[:, None]
    basis: Array = spline(inside) + beyond * slope(inside)
    return basis


@lru_cache(maxsize=256)
def _splines(knots: tuple[float, ...]) -> tuple[CubicSpline, PPoly]:
    spline = CubicSpline(knots, np.eye(len(knots)), bc_type="natural")
    return spline, spline.derivative()


def _solve(basis: Array, values: Array) -> Array:
    return np.linalg.lstsq(basis, values, rcond=None)[0].astype(np.float64)
