"""Layouts of frozen flows: sizes, pixel transform and constants that scoring needs, without weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]  # channels, height and width
Precision = Literal["float32", "bfloat16"]
"""Arithmetic of the middle convolutions of coupling networks in scoring; all else is float32 or better."""
DensityKind = Literal["density", "feature_density"]
"""What a log-likelihood is the log of: a density over dequantised pixels, or over features of a backbone at places that
are taken as independent."""
GraphPart = Literal["latent", "log-slopes", "prior-log-slopes", "reconstruction-errors", "image", "places", "pooled"]
"""Kind of an output of the graph of a flow."""


Array = NDArray[np.float64]

PIXEL_RANGE = 256.0
MEANS, DEVIATIONS = (-4.5, 0.0, 4.5), (1.0, 1.5, 1.0)
"""Means and standard deviations of the three normals of :class:`MarginalFunction`."""
SQUASH = 1e-6  # the margin e of :class:`MarginalFunction`
LIMIT, NODES = 12.0, 8193  # the table of :class:`MarginalFunction` goes from minus to plus the limit
DERIVATIVES = 6  # derivatives of the distribution function at every node: their Taylor series is exact to a few 1e-16


class PixelFunction(Protocol):
    """Pixel transform: the first step of a flow, which maps each pixel value separately."""

    def map_with_slope(self, x: Array) -> tuple[Array, Array]:
        """Return y and log|dy/dx| in nats for x in [0, 256)."""
        ...


@dataclass(frozen=True)
class AffineFunction:
    """Pixel transform y = x/256 - 1/2."""

    def map_with_slope(self, x: Array) -> tuple[Array, Array]:
        return x / PIXEL_RANGE - 0.5, np.full_like(x, -math.log(PIXEL_RANGE))


@dataclass(frozen=True)
class LogitFunction:
    """Pixel transform y = log v - log(1 - v) with v = (x/256 + a)(1 - 2a), for the margin a in (0, 1/2)."""

    alpha: float

    def map_with_slope(self, x: Array) -> tuple[Array, Array]:
        v = (x / PIXEL_RANGE + self.alpha) * (1 - 2 * self.alpha)
        y = np.log(v / (1 - v))
        # log v + log(1 - v) of v = sigmoid(y), without cancellation at either end.
        magnitude = np.abs(y)
        flatness = -magnitude - 2 * np.log1p(np.exp(-magnitude))
        return y, math.log1p(-2 * self.alpha) - math.log(PIXEL_RANGE) - flatness


@dataclass(frozen=True, eq=False)
class MarginalFunction:
    """Pixel transform y = G⁻¹(F(x)), from the distribution F of training pixels to a mixture G of three normals."""

    masses: Array  # of the 256 bins of F; the sum is 1

    def map_with_slope(self, x: Array) -> tuple[Array, Array]:
        """Return y and log((1 - 2e) p_bin) - log G'(y)."""
        bins = np.clip(np.floor(x), 0, 255).astype(np.intp)
        share = self._edges[bins] + self._widths[bins] * (x - bins)
        y = self._quantile(share)
        return y, self._log_widths[bins] - np.log(self._table.mixture(y)[1])

    def _quantile(self, share: Array) -> Array:
        """Solve G(y) = share: by cubics on cells of width 0.003, error below 1e-9, which a Newton step squares."""
        grid, values, slopes = self._table.grid, self._table.derivatives[0], self._table.derivatives[1]
        cell = np.clip(np.searchsorted(values, share), 1, len(grid) - 1)
        low, high, start = grid[cell - 1], grid[cell], values[cell - 1]
        width = values[cell] - start
        part = (share - start) / width
        chord = high - low
        first, last = width / slopes[cell - 1] - chord, width / slopes[cell] - chord
        y = low + part * (chord + (1 - part) * ((1 - part) * first - part * last))
        distribution, slope = self._table.mixture(y)
        result: Array = np.clip(y - (distribution - share) / slope, low, high)
        return result

    @cached_property
    def _edges(self) -> Array:
        edges = np.concatenate([np.zeros(1), np.cumsum(self.masses)])
        result: Array = SQUASH + (1 - 2 * SQUASH) * edges / edges[-1]
        return result

    @cached_property
    def _widths(self) -> Array:
        return np.diff(self._edges)

    @cached_property
    def _log_widths(self) -> Array:
        return np.log(self._widths)

    @cached_property
    def _table(self) -> _MixtureTable:
        first, last = float(self.masses[0]), float(self.masses[-1])
        return _MixtureTable((first, 1 - first - last, last))


class _MixtureTable:
    """G and its density G' by Taylor series (Hermite polynomials) around nodes: NumPy lacks the error function."""

    def __init__(self, weights: tuple[float, float, float]) -> None:
        self.grid = np.linspace(-LIMIT, LIMIT, NODES)
        self.derivatives = np.zeros((DERIVATIVES + 1, NODES))
        for weight, mean, deviation in zip(weights, MEANS, DEVIATIONS, strict=True):
            u = (self.grid - mean) / deviation
            self.derivatives[0] += weight * _distribution(mean, deviation)
            density = weight * np.exp(-0.5 * np.square(u)) / math.sqrt(2 * math.pi)
            # The probabilists' Hermite polynomials: He_0 = 1, He_1 = u, He_n+1 = u He_n - n He_n-1.
            before, hermite = np.zeros_like(u), np.ones_like(u)
            for order in range(1, DERIVATIVES + 1):
                self.derivatives[order] += (-1) ** (order - 1) * hermite * density / deviation**order
                before, hermite = hermite, u * hermite - (order - 1) * before

    def mixture(self, y: Array) -> tuple[Array, Array]:
        """Return G(y) and G'(y)."""
        step = self.grid[1] - self.grid[0]
        # A value that is no number has no node; it stays none whatever node is taken.
        node = np.clip(np.nan_to_num(np.rint((y + LIMIT) / step)), 0, NODES - 1).astype(np.intp)
        d = y - self.grid[node]
        distribution, slope = np.zeros_like(y), np.zeros_like(y)
        for order in range(DERIVATIVES, 0, -1):
            derivative = self.derivatives[order][node]
            distribution = (distribution + derivative) * d / order
            slope = derivative + slope * d / order
        return self.derivatives[0][node] + distribution, slope


@cache
def _distribution(mean: float, deviation: float) -> Array:
    """Return the distribution function of a normal at the nodes of all tables."""
    u = (np.linspace(-LIMIT, LIMIT, NODES) - mean) / deviation
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in u.tolist()])


@dataclass(frozen=True)
class LevelLayout:
    """Sizes and constants of one level of a flow over pixels."""

    size: tuple[int, int]  # height and width
    kept: int  # channels for the next level, 0 at the last
    latent_shape: Shape | None
    has_prior: bool  # a coupling whitens the latents
    constant_log_det: float  # nats
    reconstruction_sizes: tuple[float, ...]  # factors of float32 errors of layers with a learned inverse


@dataclass(frozen=True)
class FlowLayout:
    """What scoring needs of a flow over pixels, without weights."""

    image_shape: Shape
    pixel_function: PixelFunction
    levels: tuple[LevelLayout, ...]  # finest scale first
    is_spatial: bool  # False if a layer connects all pixels
    precision: Precision
    has_learned_inverse: bool  # of a layer, to draw samples by


@dataclass(frozen=True)
class FeatureLayout:
    """What scoring needs of flows over features."""

    feature_shape: Shape  # channels, rows and columns at places
    constant_log_det: float  # of the first fit over places, nats
