"""Distributions that are fitted to statistics of normal images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.scoring.flow_pass import logsumexp

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


@dataclass(frozen=True)
class Gaussian:
    """A multivariate normal distribution that is fitted to samples, with mean μ and root Σ^-1/2."""

    mean: Array
    root: Array

    def components(self, samples: Array) -> Array:
        """Return Σ^-1/2 (u - μ), whose squares sum to the squared Mahalanobis distance (ZCA, Kessy et al. 2018)."""
        whitened: Array = (samples - self.mean) @ self.root
        return whitened


@dataclass(frozen=True)
class Mixture:
    """A mixture of m Gaussians that is fitted to K statistics of normal images, standardised first."""

    location: Array
    scale: Array
    log_weights: Array
    means: Array
    roots: Array  # A of each precision matrix A A', (m, K, K)

    @cached_property
    def _log_dets(self) -> Array:
        log_dets: Array = np.linalg.slogdet(self.roots).logabsdet
        return log_dets

    def surprisal(self, samples: Array) -> Array:
        """Return the negative log-density of each standardised sample, in nats."""
        u = (samples - self.location) / self.scale
        whitened = np.einsum("nmk,mkj->nmj", u[:, None, :] - self.means, self.roots)
        exponent = self._log_dets - 0.5 * np.square(whitened).sum(2) - 0.5 * u.shape[1] * math.log(2 * math.pi)
        result: Array = -logsumexp(exponent + self.log_weights)
        return result


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
