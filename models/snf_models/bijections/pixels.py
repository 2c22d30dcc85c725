"""Pixel transforms: fixed maps of pixel values from [0, 256) to the real line, the first step of every flow.

They compute in float64: near the ends of the range, 1 - v loses too many digits in float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from snf_models.bijections.base import Elementwise, sum_samples
from snf_runtime.scoring.layout import (
    DEVIATIONS,
    LIMIT,
    MEANS,
    NODES,
    PIXEL_RANGE,
    SQUASH,
    AffineFunction,
    LogitFunction,
    MarginalFunction,
    PixelFunction,
)

COUNTED_AT_ONCE = 1024  # images whose pixels are counted at once


class AffinePixels(Elementwise):
    """Affine transform y = x/256 - 1/2 of pixel values from [0, 256) to [-1/2, 1/2)."""

    constant_log_det = True

    def pixel_function(self) -> PixelFunction:
        return AffineFunction()

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x / PIXEL_RANGE - 0.5, torch.full_like(x, -math.log(PIXEL_RANGE))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z + 0.5) * PIXEL_RANGE, sum_samples(torch.full_like(z, math.log(PIXEL_RANGE)))


class LogitPixels(Elementwise):
    """Logit transform y = log v - log(1 - v) of pixel values, with v = (x/256 + a)(1 - 2a).

    The log-det is Σ [log(1 - 2a) - log 256 - log v - log(1 - v)] (Keller et al. 2021, published settings).

    Args:
        alpha: The margin a, in (0, 1/2).
    """

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"expected alpha in (0, 0.5), got {alpha}")
        self.alpha = alpha

    @property
    def domain(self) -> Constraint:
        return _interval(-self.alpha * PIXEL_RANGE, (1 / (1 - 2 * self.alpha) - self.alpha) * PIXEL_RANGE)

    def pixel_function(self) -> PixelFunction:
        return LogitFunction(self.alpha)

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = (x / PIXEL_RANGE + self.alpha) * (1 - 2 * self.alpha)
        low, high = torch.log(v), torch.log1p(-v)
        return low - high, math.log1p(-2 * self.alpha) - math.log(PIXEL_RANGE) - (low + high)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = (torch.sigmoid(z) / (1 - 2 * self.alpha) - self.alpha) * PIXEL_RANGE
        # log v + log(1 - v) of v = sigmoid(z), without cancellation at either end.
        flatness = torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)
        return x, sum_samples(flatness - math.log1p(-2 * self.alpha) + math.log(PIXEL_RANGE))


class MarginalPixels(Elementwise):
    """Pixel transform G⁻¹(F(x)) of the distribution F of training pixels to a mixture G of three Gaussians.

    F is piecewise linear over the 256 bins and squashed into [e, 1 - e]. The histogram is smoothed except in the first
    and the last bin, which contain saturated pixels. G is the distribution function of a mixture of N(-4.5, 1), N(0,
    1.5²) and N(4.5, 1) for black, grey and white pixels, with the masses of the first bin, the bins between, and the
    last bin. The log-det is Σ [log((1 - 2e) p_bin) - log G'(y)].

    It makes the uniform noise of saturated pixels almost Gaussian. A logit makes it exponential, which costs a flow of
    affine couplings up to 0.42 nats a pixel.
    """

    SMOOTHING_BINS = 3.0
    FLOOR = 1e-4

    masses: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("masses", torch.full((256,), 1 / 256, dtype=torch.float64))
        self._settled: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def domain(self) -> Constraint:
        return _interval(0.0, PIXEL_RANGE)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, but stay in float64 when a flow changes its type."""
        masses = self.masses
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        empty = masses.is_meta and not self.masses.is_meta  # ``to_empty``
        self.masses = torch.empty_like(masses, device=self.masses.device) if empty else masses.to(self.masses.device)
        return self

    def fit(self, images: NDArray[np.uint8]) -> None:
        """Set F to the smoothed histogram of training images, uint8 ``(N, ...)``."""
        self._settled = None
        counts = np.zeros(256, dtype=np.float64)
        for start in range(0, len(images), COUNTED_AT_ONCE):
            # Counting takes eight bytes a pixel, and a memory-mapped dataset may be larger than the memory.
            counts += np.bincount(images[start : start + COUNTED_AT_ONCE].reshape(-1), minlength=256)
        counts /= counts.sum()
        counts[1:255] = gaussian_filter1d(counts[1:255], self.SMOOTHING_BINS, mode="nearest")
        masses = torch.from_numpy(counts) + self.FLOOR
        self.masses.copy_(masses / masses.sum())

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        edges = self._edges()
        bins = x.detach().floor().long().clamp(0, 255)
        share = edges[bins] + edges.diff()[bins] * (x.to(edges.dtype) - bins)
        y = self._quantile(share)
        return y.to(x.dtype), self._log_slope(y, bins).to(x.dtype)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        edges = self._edges()
        y = z.to(edges.dtype)
        share = _distribution(self._normals(y)).clamp(edges[0], edges[-1])
        bins = (torch.searchsorted(edges, share.detach().contiguous(), right=True) - 1).clamp(0, 255)
        x = bins + (share - edges[bins]) / edges.diff()[bins]
        return x.to(z.dtype), -sum_samples(self._log_slope(y, bins)).to(z.dtype)

    def pixel_function(self) -> PixelFunction:
        return MarginalFunction(self.masses.cpu().numpy().copy())

    def settled(self) -> MarginalPixels:
        settled = copy.deepcopy(self)
        settled._settled = self._edges(), self._table()
        return settled

    def _edges(self) -> Tensor:
        if self._settled is not None:
            return self._settled[0]
        edges = torch.cat([self.masses.new_zeros(1), self.masses.cumsum(0)])
        return SQUASH + (1 - 2 * SQUASH) * edges / edges[-1]

    def _normals(self, y: Tensor) -> list[tuple[Tensor, float, Tensor]]:
        """Return the weight and the deviation of each normal of the mixture, with ``y`` from its mean in deviations."""
        first, last = self.masses[0], self.masses[-1]
        weights = first, 1 - first - last, last
        return [
            (w, deviation, (y - mean) / deviation)
            for w, mean, deviation in zip(weights, MEANS, DEVIATIONS, strict=True)
        ]

    def _mixture(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return G(y), the distribution function of the mixture of normals, and its density G'(y)."""
        normals = self._normals(y)
        return _distribution(normals), _density(normals)

    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return a grid of values y with G(y) and G'(y) on it, ``(8193,)`` each, for interpolation."""
        if self._settled is not None:
            return self._settled[1]
        grid = torch.linspace(-LIMIT, LIMIT, NODES, dtype=self.masses.dtype, device=self.masses.device)
        return grid, *self._mixture(grid)

    def _quantile(self, share: Tensor) -> Tensor:
        """Solve G(y) = share for y, by cubic interpolation in a table and one Newton step.

        The cubic has the values y and the slopes 1 / G'(y) of the solution at both ends of a cell of width 0.003, so
        that its error is below 1e-9; the Newton step squares it.
        """
        grid, table, slopes = self._table()
        cell = torch.searchsorted(table, share.detach().contiguous()).clamp(1, len(grid) - 1)
        low, high, width = grid[cell - 1], grid[cell], table[cell] - table[cell - 1]
        part = (share - table[cell - 1]) / width
        chord = high - low
        first, last = width / slopes[cell - 1] - chord, width / slopes[cell] - chord
        y = low + part * (chord + (1 - part) * ((1 - part) * first - part * last))
        distribution, slope = self._mixture(y)
        return torch.clamp(y - (distribution - share) / slope, low, high)

    def _log_slope(self, y: Tensor, bins: Tensor) -> Tensor:
        return torch.log(self._edges().diff())[bins] - torch.log(_density(self._normals(y)))


def _distribution(normals: list[tuple[Tensor, float, Tensor]]) -> Tensor:
    distribution = torch.zeros_like(normals[0][2])
    for weight, _, u in normals:
        distribution = distribution + weight * torch.special.ndtr(u)
    return distribution


def _density(normals: list[tuple[Tensor, float, Tensor]]) -> Tensor:
    density = torch.zeros_like(normals[0][2])
    for weight, deviation, u in normals:
        density = density + weight * torch.exp(-0.5 * u.square()) / (deviation * math.sqrt(2 * math.pi))
    return density


def _interval(lower: float, upper: float) -> Constraint:
    interval: Constraint = constraints.interval(lower, upper)
    return interval
