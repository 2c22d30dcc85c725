"""Standardisation of image statistics by image complexity, on which the log-density of a flow depends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_IMAGES_CURVE, MIN_IMAGES_LINE = 200, 40
"""Images from which on mean and spread are curves of complexity, or straight lines; constants with fewer."""
KNOTS = 4
FLOOR = 1e-3
"""Smallest residual, as a share of their standard deviation: the logarithm of a spread must stay finite."""
MIN_SPREAD = 1e-9


@dataclass(frozen=True)
class Conditioning:
    """Conversion of statistics s to z-scores (s - m(c)) / σ(c), with natural cubic splines of complexity c."""

    knots: Array  # of c; with a single knot m and σ are constant
    mean: Array  # m at the knots, (k, K)
    log_spread: Array  # log σ at the knots, (k, K)
    lowest: Array  # smallest log σ over the reference images: σ is not extrapolated
    highest: Array

    @classmethod
    def fit(cls, statistics: Array, complexity: Array, images: int | None = None) -> Self:
        """Fit the mean, then the log of the residuals; ``images`` (None: n) decides on curves, lines or constants."""
        knots = _knots(complexity, len(complexity) if images is None else images)
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


def _knots(complexity: Array, count: int) -> Array:
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
    curvature = _curvature(tuple(knots.tolist()))
    inside = np.clip(complexity, knots[0], knots[-1])
    cell = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    width = (knots[cell + 1] - knots[cell])[:, None]
    right = (inside - knots[cell])[:, None] / width
    left = 1 - right
    one = np.eye(len(knots))
    value = left * one[cell] + right * one[cell + 1]
    bend = (left**3 - left) * curvature[cell] + (right**3 - right) * curvature[cell + 1]
    slope = (one[cell + 1] - one[cell]) / width
    turn = (3 * right**2 - 1) * curvature[cell + 1] - (3 * left**2 - 1) * curvature[cell]
    beyond = (complexity - inside)[:, None]
    basis: Array = value + bend * width**2 / 6 + beyond * (slope + turn * width / 6)
    return basis


@lru_cache(maxsize=256)
def _curvature(knots: tuple[float, ...]) -> Array:
    """Return the splines' second derivatives at the knots, by a tridiagonal system (de Boor 1978, ch. 4)."""
    widths, count = np.diff(knots), len(knots)
    system, right = np.eye(count), np.zeros((count, count))
    for i in range(1, count - 1):
        before, after = widths[i - 1], widths[i]
        system[i, i - 1 : i + 2] = before, 2 * (before + after), after
        right[i, i - 1 : i + 2] = 6 / before, -6 / before - 6 / after, 6 / after
    return np.linalg.solve(system, right).astype(np.float64)


def _solve(basis: Array, values: Array) -> Array:
    return np.linalg.lstsq(basis, values, rcond=None)[0].astype(np.float64)
