"""Pixel transforms: from [0, 256) to the real line, the same map for every pixel, without learned weights.

They run in float64: near the ends of the range 1 - v would lose in float32 what a likelihood may not lose.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from models.bijections.base import Elementwise, sum_samples

PIXEL_RANGE = 256.0

COUNTED_AT_ONCE = 1024
"""Images."""


class AffinePixels(Elementwise):
    """y = x/256 - 1/2, log-det -D·log 256. Cost: O(D)."""

    constant_log_det = True

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels in [0, 256) to [-1/2, 1/2)."""
        return x / PIXEL_RANGE - 0.5, torch.full_like(x, -math.log(PIXEL_RANGE))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`; does not clamp."""
        return (z + 0.5) * PIXEL_RANGE, sum_samples(torch.full_like(z, math.log(PIXEL_RANGE)))


class LogitPixels(Elementwise):
    """v = (x/256 + a)(1 - 2a), y = log v - log(1 - v), with a = 1e-6 (Keller et al. 2021, published settings).

    log-det: Σ log(1 - 2a) - log 256 - log v - log(1 - v). Cost: O(D).
    """

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must lie in (0, 0.5), got {alpha}")
        self.alpha = alpha

    def _log_slope(self, y: Tensor) -> Tensor:
        # log v + log(1 - v) of v = sigmoid(y), without cancellation at either end.
        flatness = torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y)
        return math.log1p(-2 * self.alpha) - math.log(PIXEL_RANGE) - flatness

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels in [0, 256) to about [-13.8, 13.8]."""
        y = torch.logit((x / PIXEL_RANGE + self.alpha) * (1 - 2 * self.alpha))
        return y, self._log_slope(y)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`; values outside its range land outside [0, 256)."""
        x = (torch.sigmoid(z) / (1 - 2 * self.alpha) - self.alpha) * PIXEL_RANGE
        return x, -sum_samples(self._log_slope(z))


class MarginalPixels(Elementwise):
    """y = G⁻¹(F(x)): F the distribution of one pixel of the training images, G a mixture of three normals.

    F is piecewise linear over the 256 bins, squashed into [e, 1 - e]; its bin masses are the histogram of the training
    images, smoothed but for the first and the last bin, which saturated pixels fill. The components of G stand for
    black, grey and white, N(-4.5, 1), N(0, 1.5²) and N(4.5, 1), with the masses of the first bin, of all between, and
    of the last bin. log-det: Σ log((1 - 2e) p_bin) - log G'(y). Cost: O(D), a few Newton steps a pixel.

    Why: a logit turns the uniform noise of a saturated pixel into an exponential, which costs a flow of affine
    couplings up to 0.42 nats a pixel against the Gaussian that it can model. Here that noise is almost Gaussian.
    """

    MEANS = (-4.5, 0.0, 4.5)
    DEVIATIONS = (1.0, 1.5, 1.0)
    SQUASH = 1e-6
    SMOOTHING_BINS = 3.0
    FLOOR = 1e-4
    NEWTON_STEPS = 4

    masses: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("masses", torch.full((256,), 1 / 256, dtype=torch.float64))
        self._settled: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def fit(self, images: NDArray[np.uint8]) -> None:
        """Take the bin masses from training images of any shape."""
        self._settled = None
        counts = np.zeros(256, dtype=np.float64)
        for start in range(0, len(images), COUNTED_AT_ONCE):
            # Counting takes eight bytes a pixel: a mapped dataset may be larger than the memory.
            counts += np.bincount(images[start : start + COUNTED_AT_ONCE].reshape(-1), minlength=256)
        counts /= counts.sum()
        counts[1:255] = gaussian_filter1d(counts[1:255], self.SMOOTHING_BINS, mode="nearest")
        masses = torch.from_numpy(counts) + self.FLOOR
        self.masses.copy_(masses / masses.sum())

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels in [0, 256) to about [-9.3, 9.3]."""
        edges = self._edges()
        bins = x.detach().floor().long().clamp(0, 255)
        share = edges[bins] + edges.diff()[bins] * (x.to(edges.dtype) - bins)
        y = self._quantile(share)
        return y.to(x.dtype), self._log_slope(y, bins).to(x.dtype)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`; values outside its range land at the ends of [0, 256)."""
        edges = self._edges()
        y = z.to(edges.dtype)
        share = self._mixture(y)[0].clamp(edges[0], edges[-1])
        bins = (torch.searchsorted(edges, share.detach().contiguous(), right=True) - 1).clamp(0, 255)
        x = bins + (share - edges[bins]) / edges.diff()[bins]
        return x.to(z.dtype), -sum_samples(self._log_slope(y, bins)).to(z.dtype)

    def settled(self) -> MarginalPixels:
        """Return a copy that scores faster: its edges and its table are made once."""
        settled = copy.deepcopy(self)
        settled._settled = self._edges(), self._table()
        return settled

    def _edges(self) -> Tensor:
        if self._settled is not None:
            return self._settled[0]
        edges = torch.cat([self.masses.new_zeros(1), self.masses.cumsum(0)])
        return self.SQUASH + (1 - 2 * self.SQUASH) * edges / edges[-1]

    def _mixture(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return G(y) and its slope G'(y)."""
        first, last = self.masses[0], self.masses[-1]
        distribution, slope = torch.zeros_like(y), torch.zeros_like(y)
        for weight, mean, deviation in zip((first, 1 - first - last, last), self.MEANS, self.DEVIATIONS, strict=True):
            u = (y - mean) / deviation
            distribution = distribution + weight * torch.special.ndtr(u)
            slope = slope + weight * torch.exp(-0.5 * u.square()) / (deviation * math.sqrt(2 * math.pi))
        return distribution, slope

    def _table(self) -> tuple[Tensor, Tensor]:
        """Return a grid of y and G there."""
        if self._settled is not None:
            return self._settled[1]
        grid = torch.linspace(-12, 12, 8193, dtype=self.masses.dtype, device=self.masses.device)
        return grid, self._mixture(grid)[0]

    def _quantile(self, share: Tensor) -> Tensor:
        """Solve G(y) = share: interpolation in a table, then Newton's steps, each kept within its table cell."""
        grid, table = self._table()
        cell = torch.searchsorted(table, share.detach().contiguous()).clamp(1, len(grid) - 1)
        low, high = grid[cell - 1], grid[cell]
        y = low + (high - low) * (share - table[cell - 1]) / (table[cell] - table[cell - 1])
        for _ in range(self.NEWTON_STEPS):
            distribution, slope = self._mixture(y)
            y = torch.clamp(y - (distribution - share) / slope, low, high)
        return y

    def _log_slope(self, y: Tensor, bins: Tensor) -> Tensor:
        return torch.log(self._edges().diff())[bins] - torch.log(self._mixture(y)[1])
