"""Monotone rational-quadratic splines, one for every element of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bijections.base import Elementwise, Shape, sum_samples
from models.bijections.frozen import Inverse

MIN_SHARE = 1e-3
"""No bin is narrower or lower than this share of the whole range."""
MIN_SLOPE = 1e-3


class SplineActivation(Elementwise):
    """z_i = spline_i(x_i), monotone and rational-quadratic on [-bound, bound], for every element (Durkan et al. 2019).

    Outside, a spline is the identity, with log-det 0; the slopes at both ends are 1. Widths, heights and inner slopes
    of the bins are learned, for every element of ``shape`` by itself, and start close to the identity.

    Cost: O(D·bins) a call for the knots, whatever the size of the batch, and O(N·D·log bins) for the map, both ways.
    """

    def __init__(self, shape: Shape, bins: int = 5, bound: float = 10.0) -> None:
        super().__init__()
        if bins < 2 or bound <= 0:
            raise ValueError(f"expected at least 2 bins and a positive bound, got {bins} and {bound}")
        self.shape = shape
        self.bound = bound
        self.widths = nn.Parameter(0.01 * torch.randn(*shape, bins))
        self.heights = nn.Parameter(0.01 * torch.randn(*shape, bins))
        self.slopes = nn.Parameter(0.01 * torch.randn(*shape, bins - 1))

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``. Raises ``ValueError`` for images of another shape."""
        self._check(x)
        return self.knots().map_with_slope(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`, by the root of a quadratic equation."""
        self._check(z)
        return self.knots().inverse(z)

    def knots(self) -> Knots:
        """Return the knots of all splines. Cost: O(D·bins)."""
        return _knots(self.widths, self.heights, self.slopes, self.bound)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenSpline:
        """Return the splines with their knots stored."""
        return FrozenSpline(_knots(self.widths.double(), self.heights.double(), self.slopes.double(), self.bound))

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(f"expected images (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")


@dataclass(frozen=True)
class FrozenSpline:
    """Frozen splines, one for every element of an image, in float64."""

    knots: Knots

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and its log-det, ``(N, H, W)``."""
        z, log_slope = self.knots.map_with_slope(x)
        return z, log_slope.sum(1)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Undo :meth:`forward`."""
        return self.knots.inverse(z)[0]


@dataclass(frozen=True)
class Knots:
    """The knots (x_k, y_k) of D splines and the slopes d_k there, each ``(D, bins + 1)``.

    With θ = (x - x_k) / (x_{k+1} - x_k) in bin k of mean slope s,

        y = y_k + (y_{k+1} - y_k) (sθ² + d_k θ(1 - θ)) / (s + (d_{k+1} + d_k - 2s) θ(1 - θ))

    (Durkan et al. 2019, eq. 4).
    """

    x: Tensor
    y: Tensor
    slope: Tensor
    bound: float

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images ``x``, ``(N, C, H, W)``, and return the log slope of every element with them."""
        values, inside, clamped = self._by_element(x)
        bins = self._find_bins(self.x, clamped)
        theta = (clamped - bins.x) / bins.width
        y = bins.y + bins.height * bins.rise(theta)
        return _images(torch.where(inside, y, values), x), _images(_log_slope(inside, bins, theta), x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by that root of the quadratic which does not cancel (Durkan et al. 2019, eq. 6-8)."""
        values, inside, clamped = self._by_element(z)
        bins = self._find_bins(self.y, clamped)
        theta = bins.solve((clamped - bins.y) / bins.height)
        x = bins.x + bins.width * theta
        log_slope = _images(_log_slope(inside, bins, theta), z)
        return _images(torch.where(inside, x, values), z), -sum_samples(log_slope)

    def _by_element(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x`` as ``(D, N)``, whether it lies inside, and the same with what lies outside moved to the ends."""
        values = x.flatten(1).T.contiguous()
        return values, values.abs() < self.bound, values.clamp(-self.bound, self.bound)

    def _find_bins(self, edges: Tensor, values: Tensor) -> SplineBins:
        """Return the bins of ``edges`` that ``values``, ``(D, N)``, lie in."""
        inner = edges.detach()[:, 1:-1].contiguous()
        left = torch.searchsorted(inner, values.detach(), right=True)
        right = left + 1
        x, y = self.x.gather(1, left), self.y.gather(1, left)
        width, height = self.x.gather(1, right) - x, self.y.gather(1, right) - y
        return SplineBins(x, y, width, height, self.slope.gather(1, left), self.slope.gather(1, right))


@dataclass(frozen=True)
class SplineBins:
    """One bin for every element and sample, each ``(D, N)``: left knot, width, height, slopes at both knots."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    def rise(self, theta: Tensor) -> Tensor:
        """Return the share of the height that lies below ``theta``."""
        mean = self.height / self.width
        mixed = theta * (1 - theta)
        return (mean * theta.square() + self.left * mixed) / (mean + (self.left + self.right - 2 * mean) * mixed)

    def log_slope(self, theta: Tensor) -> Tensor:
        """Return log dy/dx."""
        mean = self.height / self.width
        rest = 1 - theta
        mixed = theta * rest
        numerator = self.right * theta.square() + 2 * mean * mixed + self.left * rest.square()
        denominator = mean + (self.left + self.right - 2 * mean) * mixed
        return 2 * (torch.log(mean) - torch.log(denominator)) + torch.log(numerator)

    def solve(self, rise: Tensor) -> Tensor:
        """Return theta of the share ``rise``: a root of aθ² + bθ + c."""
        mean = self.height / self.width
        bend = rise * (self.left + self.right - 2 * mean)
        a, b, c = mean - self.left + bend, self.left - bend, -mean * rise
        # In exact arithmetic the discriminant is positive: the slope of the spline is.
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        return 2 * c / (-b - root)


def _knots(widths: Tensor, heights: Tensor, slopes: Tensor, bound: float) -> Knots:
    inner = MIN_SLOPE + F.softplus(slopes.flatten(0, 2) + math.log(math.expm1(1 - MIN_SLOPE)))
    edges = _edges(widths.flatten(0, 2), bound), _edges(heights.flatten(0, 2), bound)
    return Knots(*edges, F.pad(inner, (1, 1), value=1.0), bound)


def _edges(logits: Tensor, bound: float) -> Tensor:
    """Return the edges of bins with these logits, ``(D, bins)`` -> ``(D, bins + 1)``; the first and last are exact."""
    bins = logits.shape[1]
    # Along the first axis: many short rows are several times slower.
    shares = MIN_SHARE + (1 - MIN_SHARE * bins) * torch.softmax(logits.T, dim=0).T
    inner = 2 * bound * shares.cumsum(1)[:, :-1] - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _images(values: Tensor, like: Tensor) -> Tensor:
    return values.T.reshape(like.shape)


def _log_slope(inside: Tensor, bins: SplineBins, theta: Tensor) -> Tensor:
    return torch.where(inside, bins.log_slope(theta), 0)
