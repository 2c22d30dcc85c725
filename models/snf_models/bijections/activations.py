"""Activations, maps of single values: the identity, smooth leaky ReLU, and monotone rational-quadratic splines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import Elementwise, Shape, check_shape, sum_samples
from snf_models.bijections.frozen import Inverse


class Identity(Elementwise):
    """Identity with log-det 0, the first layer of flows over vectors."""

    constant_log_det: ClassVar[bool] = True
    cheap_inverse: ClassVar[bool] = True

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.zeros_like(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z, z.new_zeros(z.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        return 0.0


class SmoothLeakyReLU(Elementwise):
    """Smooth leaky ReLU z = α·x + (1 - α)·log(1 + e^x), with slopes from α to 1 (Gresele et al. 2020).

    The log-det is Σ log(α + (1 - α)·σ(x)) with the logistic function σ (Keller et al. 2021, 5.1).

    Args:
        alpha: The slope α for large negative x, in [0.01, 1).
    """

    cheap_inverse: ClassVar[bool] = True

    NEWTON_STEPS = 7
    """Newton steps of the inverse. It is exact up to rounding after 5 steps for α = 0.3, after 7 for the smallest α."""
    MIN_ALPHA = 0.01
    """The smallest α for which the inverse was verified."""

    def __init__(self, alpha: float = 0.3) -> None:
        super().__init__()
        if not self.MIN_ALPHA <= alpha < 1:
            raise ValueError(f"expected alpha in [{self.MIN_ALPHA}, 1), got {alpha}")
        self.alpha = alpha

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._value(x), torch.log(self._slope(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x by Newton steps from the inverse of the two asymptotes, which lies right of the solution."""
        x = torch.minimum(z, z / self.alpha)
        for _ in range(self.NEWTON_STEPS):
            x = x - (self._value(x) - z) / self._slope(x)
        return x, -sum_samples(torch.log(self._slope(x)))

    def _value(self, x: Tensor) -> Tensor:
        # Beyond its default threshold of 20, softplus has an error of 2e-9.
        return self.alpha * x + (1 - self.alpha) * F.softplus(x, threshold=40)

    def _slope(self, x: Tensor) -> Tensor:
        return self.alpha + (1 - self.alpha) * torch.sigmoid(x)


MIN_SHARE = 1e-3  # smallest width and height of a bin, as a share of the whole range
MIN_SLOPE = 1e-3  # smallest slope at an inner knot


class SplineActivation(Elementwise):
    """A separate learned rational-quadratic spline for each value of an image (Durkan et al. 2019).

    Each spline is monotone on [-bound, bound] and the identity outside, with slope 1 at both ends. Widths, heights and
    inner slopes of its bins are learned and start close to the identity.

    Cost: O(D·bins + N·D·log bins) in both directions for D elements.

    Args:
        shape: Channels, height and width of the images.
        bins: The number of bins of each spline, at least 2.
        bound: The end of the interval.
    """

    cheap_inverse: ClassVar[bool] = True

    def __init__(self, shape: Shape, bins: int = 5, bound: float = 10.0) -> None:
        super().__init__()
        check_spline(bins, bound)
        self.shape = shape
        self.bins = bins
        self.bound = bound
        self.widths = nn.Parameter(0.01 * torch.randn(*shape, bins))
        self.heights = nn.Parameter(0.01 * torch.randn(*shape, bins))
        self.slopes = nn.Parameter(0.01 * torch.randn(*shape, bins - 1))

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_shape(x, self.shape)
        return self.knots().map_with_slope(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        check_shape(z, self.shape)
        x, log_slope = self.knots().inverse_with_slope(z)
        return x, -sum_samples(log_slope)

    def knots(self) -> Knots:
        return knots_of(self.widths, self.heights, self.slopes, self.bound)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenSpline:
        return FrozenSpline(knots_of(self.widths.double(), self.heights.double(), self.slopes.double(), self.bound))


@dataclass(frozen=True)
class FrozenSpline:
    """Frozen form of :class:`SplineActivation`."""

    knots: Knots

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = self.knots.map_with_slope(x)
        return z, log_slope.sum(1)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        return self.knots.inverse_with_slope(z)[0]


@dataclass(frozen=True)
class Knots:
    """Knots of rational-quadratic splines: points on the curves, and the slopes there.

    D splines pass through the points (x_k, y_k) with slopes d_k.

    In bin k, with mean slope s and θ = (x - x_k) / (x_{k+1} - x_k), a spline is (Durkan et al. 2019, eq. 4)

        y = y_k + (y_{k+1} - y_k) (s·θ² + d_k·θ(1 - θ)) / (s + (d_{k+1} + d_k - 2s)·θ(1 - θ))

    Attributes:
        x: x_k, ``(D, bins + 1)``.
        y: y_k, ``(D, bins + 1)``.
        slope: d_k, ``(D, bins + 1)``.
        bound: The end of the interval; outside [-bound, bound] the splines are the identity.
    """

    x: Tensor
    y: Tensor
    slope: Tensor
    bound: float

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log(dz/dx) of images, both ``(N, C, H, W)``."""
        values, inside, clamped = self._by_element(x)
        bins = self._find_bins(self.x, clamped)
        theta = (clamped - bins.x) / bins.width
        y = bins.y + bins.height * bins.rise(theta)
        return _images(torch.where(inside, y, values), x), _images(_log_slope(inside, bins, theta), x)

    def inverse_with_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log(dz/dx) by the closed form, both ``(N, C, H, W)`` (Durkan et al. 2019, eq. 6-8)."""
        values, inside, clamped = self._by_element(z)
        bins = self._find_bins(self.y, clamped)
        theta = bins.solve((clamped - bins.y) / bins.height)
        x = bins.x + bins.width * theta
        return _images(torch.where(inside, x, values), z), _images(_log_slope(inside, bins, theta), z)

    def _by_element(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images as values ``(D, N)``, a mask of values inside [-bound, bound], and the clamped values."""
        values = x.flatten(1).T.contiguous()
        return values, values.abs() < self.bound, values.clamp(-self.bound, self.bound)

    def _find_bins(self, edges: Tensor, values: Tensor) -> SplineBins:
        """Return the spline bins that contain the given ``values``, ``(D, N)``."""
        inner = edges.detach()[:, 1:-1].contiguous()
        left = torch.searchsorted(inner, values.detach(), right=True)
        right = left + 1
        x, y = self.x.gather(1, left), self.y.gather(1, left)
        width, height = self.x.gather(1, right) - x, self.y.gather(1, right) - y
        return SplineBins(x, y, width, height, self.slope.gather(1, left), self.slope.gather(1, right))


@dataclass(frozen=True)
class SplineBins:
    """The bin that contains each value of D splines and N images; every field is ``(D, N)``."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    def rise(self, theta: Tensor) -> Tensor:
        """Return the relative height in the bin at the relative position ``theta``, both 0 to 1."""
        mean = self.height / self.width
        mixed = theta * (1 - theta)
        return (mean * theta.square() + self.left * mixed) / (mean + (self.left + self.right - 2 * mean) * mixed)

    def log_slope(self, theta: Tensor) -> Tensor:
        """Return log(dy/dx) at the relative position ``theta`` (Durkan et al. 2019, eq. 5)."""
        mean = self.height / self.width
        rest = 1 - theta
        mixed = theta * rest
        numerator = self.right * theta.square() + 2 * mean * mixed + self.left * rest.square()
        denominator = mean + (self.left + self.right - 2 * mean) * mixed
        return 2 * (torch.log(mean) - torch.log(denominator)) + torch.log(numerator)

    def solve(self, rise: Tensor) -> Tensor:
        """Return the relative position at the relative height ``rise``, both 0 to 1."""
        mean = self.height / self.width
        bend = rise * (self.left + self.right - 2 * mean)
        a, b, c = mean - self.left + bend, self.left - bend, -mean * rise
        # The discriminant is positive in exact arithmetic, because the slope of the spline is.
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        return 2 * c / (-b - root)


def check_spline(bins: int, bound: float) -> None:
    """Raise ``ValueError`` unless there are at least 2 bins, and ``bound`` is positive."""
    if bins < 2 or bound <= 0:
        raise ValueError(f"expected at least 2 bins and a positive bound, got {bins} and {bound}")


def knots_of(widths: Tensor, heights: Tensor, slopes: Tensor, bound: float) -> Knots:
    """Return the knots of D splines for unconstrained numbers; zeros give the identity (Durkan et al. 2019, 3.1).

    Args:
        widths: Logits of the widths of the bins, ``(..., bins)`` for D = (...).
        heights: Logits of their heights, ``(..., bins)``.
        slopes: Numbers whose softplus gives the slopes at inner knots, ``(..., bins - 1)``.
        bound: The end of the interval.
    """
    widths, heights, slopes = (part.flatten(0, -2) for part in (widths, heights, slopes))
    inner = MIN_SLOPE + F.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE)))
    return Knots(_edges(widths, bound), _edges(heights, bound), F.pad(inner, (1, 1), value=1.0), bound)


def _edges(logits: Tensor, bound: float) -> Tensor:
    """Return the edges of spline bins from the unnormalised logits of their sizes, ``(D, bins + 1)``."""
    bins = logits.shape[1]
    # Along the first axis, because softmax of many short rows is several times slower.
    shares = MIN_SHARE + (1 - MIN_SHARE * bins) * torch.softmax(logits.T, dim=0).T
    inner = 2 * bound * shares.cumsum(1)[:, :-1] - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _images(values: Tensor, like: Tensor) -> Tensor:
    return values.T.reshape(like.shape)


def _log_slope(inside: Tensor, bins: SplineBins, theta: Tensor) -> Tensor:
    return torch.where(inside, bins.log_slope(theta), 0)
