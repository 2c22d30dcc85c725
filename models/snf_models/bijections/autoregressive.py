"""Autoregressive layers: convolutions inverted by substitution, and a masked network over all values."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import (
    Conditional,
    ConstantLogDet,
    Shape,
    check_context,
    vectors_of,
)
from snf_models.bijections.channels import ExactConv1x1
from snf_models.bijections.coupling import log_scale_and_shift
from snf_models.bijections.frozen import FrozenMap


class AutoregressiveConv(ConstantLogDet):
    """Convolution of each pixel with its upper and left neighbours (Hoogeboom et al. 2019).

    z_ij = L x_ij + A x_{i-1,j-1} + B x_{i-1,j} + C x_{i,j-1}, with zeros outside the image and L lower triangular. In
    the order (row, column, channel) the matrix of the map is lower triangular, so the log-det is H·W·Σ_c log|L_cc|, and
    substitution inverts it, in H + W - 1 steps, one for each anti-diagonal.

    The kernel starts as the identity plus normal noise of deviation 0.05/√C. The norms of the four noise matrices then
    sum to about 0.4, and the norm of the inverse is at most 1/(1 - 0.4). The published deviation, 1/(2C), is 0.5 for a
    single channel, and the inverse overflows.

    Args:
        channels: The number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        identity = torch.zeros(channels, channels, 2, 2)
        identity[:, :, 1, 1] = torch.eye(channels)
        self.weight = nn.Parameter(identity + 0.05 / channels**0.5 * torch.randn(identity.shape))

    def transform(self, x: Tensor) -> Tensor:
        return convolve_causally(self.masked_weight(), x)

    def solve(self, z: Tensor) -> Tensor:
        return substitute_back(self.masked_weight().double(), z.double()).to(z.dtype)

    def log_abs_det(self, shape: Shape) -> Tensor:
        return shape[1] * shape[2] * self.weight[:, :, 1, 1].diagonal().double().abs().log().sum()

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        weight = self.masked_weight().double()
        return FrozenMap(lambda x: (convolve_causally(weight, x), None), lambda z: substitute_back(weight, z))

    def masked_weight(self) -> Tensor:
        """Return the kernel ``(C, C, 2, 2)``, lower triangular at the pixel itself."""
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1] = mask[:, :, 1, 1].tril()
        return self.weight * mask


class EmergingConv(ConstantLogDet):
    """1x1 convolution, then two autoregressive ones of opposite orders (Hoogeboom et al. 2019).

    Together they have a receptive field of 3x3 pixels. The log-det is the sum over them.

    Args:
        channels: The number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mixing = ExactConv1x1(channels)
        self.first = AutoregressiveConv(channels)
        self.second = AutoregressiveConv(channels)

    def transform(self, x: Tensor) -> Tensor:
        return _turn(self.second.transform(_turn(self.first.transform(self.mixing.transform(x)))))

    def solve(self, z: Tensor) -> Tensor:
        return self.mixing.solve(self.first.solve(_turn(self.second.solve(_turn(z)))))

    def log_abs_det(self, shape: Shape) -> Tensor:
        return self.mixing.log_abs_det(shape) + self.first.log_abs_det(shape) + self.second.log_abs_det(shape)

    def freeze(self, shape: Shape) -> FrozenMap:
        mixing, first, second = (part.freeze(shape) for part in (self.mixing, self.first, self.second))

        def forward(x: Tensor) -> tuple[Tensor, None]:
            return _turn(second.forward(_turn(first.forward(mixing.forward(x)[0])[0]))[0]), None

        def inverse(z: Tensor) -> Tensor:
            return mixing.inverse(first.inverse(_turn(second.inverse(_turn(z), "exact")), "exact"), "exact")

        return FrozenMap(forward, inverse)


def convolve_causally(weight: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight)


def substitute_back(weight: Tensor, z: Tensor) -> Tensor:
    """Invert :func:`convolve_causally` by substitution along anti-diagonals.

    x_ij = L^-1 (z_ij - [A B C] [x_{i-1,j-1} x_{i-1,j} x_{i,j-1}]), so the anti-diagonal i + j = d depends on the two
    before it.
    """
    here = weight[:, :, 1, 1]
    neighbours = torch.cat([weight[:, :, 0, 0], weight[:, :, 0, 1], weight[:, :, 1, 0]], dim=1)
    neighbours = torch.linalg.solve_triangular(here, neighbours, upper=False)
    own = torch.linalg.solve_triangular(here, z.flatten(2), upper=False).view_as(z)
    # Row i of a diagonal is the location (i, d - i). Values beyond the right edge are not used again.
    last = before = torch.zeros_like(z[..., 0])
    diagonals = []
    for diagonal in skew(own).unbind(-1):
        previous = torch.cat([_next_row(before), _next_row(last), last], dim=1)
        before, last = last, diagonal - neighbours @ previous
        diagonals.append(last)
    return unskew(torch.stack(diagonals, dim=-1), z.shape[3])


def skew(x: Tensor) -> Tensor:
    """Shift row i of each image to the right by i pixels, ``(N, C, H, W) -> (N, C, H, H + W - 1)``; the gaps are 0.

    >>> skew(torch.tensor([[[[1, 2], [3, 4]]]])).tolist()
    [[[[1, 2, 0], [0, 3, 4]]]]
    """
    height, width = x.shape[2:]
    # Rows of length H + W, read as rows of length H + W - 1: each starts one place later than the row before.
    return F.pad(x, (0, height)).flatten(2)[..., :-height].reshape(*x.shape[:3], height + width - 1)


def unskew(x: Tensor, width: int) -> Tensor:
    height = x.shape[2]
    return F.pad(x.flatten(2), (0, height)).reshape(*x.shape[:3], height + width)[..., :width]


def _next_row(diagonal: Tensor) -> Tensor:
    return F.pad(diagonal, (1, 0))[..., :-1]


def _turn(x: Tensor) -> Tensor:
    return x.flip(2, 3)


class MaskedAutoregressive(Conditional):
    """Masked autoregressive layer over all values of an image or vector (Papamakarios et al. 2017).

    z_i = s_i·x_i + t_i, where s_i and t_i are functions of the values x_1, ..., x_{i-1} before it and of the context c
    if there is one, with log s = 2·tanh(h/2) as in an affine coupling. The log-det is Σ log s_i. A network with two
    hidden layers and ReLUs gives all h and t at once. Masks of its weights keep the order (MADE, Germain et al. 2015):
    a hidden unit of degree m gets values up to the m-th, and units of degrees up to m, and is an input of s_i and t_i
    for i > m. Degrees are spread evenly; with a context there are units of degree 0. The layer starts as the identity.

    Values are ordered by channel, row and column. Neighbouring layers should have different orders (``reverse``), or a
    linear layer between them.

    Cost: O(N·width·(D + width)) for D values. The inverse takes D steps in turn, O(N·D·width²).

    Args:
        dimensions: The number of values D of an image.
        width: Units of each hidden layer. With fewer than D, neighbouring values share a degree.
        reverse: Whether the order is from the last value to the first.
        context: The length K of the context; 0 for a layer without one.
    """

    flat: ClassVar[bool] = True
    before: Tensor
    between: Tensor
    after: Tensor

    def __init__(self, dimensions: int, width: int, reverse: bool = False, *, context: int = 0) -> None:
        super().__init__(context)
        if min(dimensions, width) < 1:
            raise ValueError(f"expected at least one value and one hidden unit, got {dimensions} and {width}")
        self.dimensions = dimensions
        self.width = width
        self.reverse = reverse
        self.first = nn.Linear(dimensions, width)
        self.of_context = nn.Linear(context, width, bias=False) if context else None
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 2 * dimensions)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # Place of each value in the order, from 1, and degree of each hidden unit.
        places = torch.arange(1, dimensions + 1)
        places = places.flip(0) if reverse else places
        lowest = 0 if context or dimensions == 1 else 1
        degrees = torch.linspace(lowest, dimensions - 1, width, dtype=torch.float64).round().long()
        for name, mask in {
            "before": degrees[:, None] >= places,
            "between": degrees[:, None] >= degrees,
            "after": places.repeat(2)[:, None] > degrees,
        }.items():
            self.register_buffer(name, mask, persistent=False)

    def map_with_slope(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors = vectors_of(x, self.dimensions)
        hidden = F.linear(vectors, self.first.weight * self.before) + self._offset(x, context)
        hidden = F.linear(F.relu(hidden), self.middle.weight * self.between, self.middle.bias)
        log_scale, shift = log_scale_and_shift(F.linear(F.relu(hidden), self.last.weight * self.after, self.last.bias))
        return (vectors * torch.exp(log_scale) + shift).view(x.shape), log_scale.view(x.shape)

    def inverse_with_slope(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        values = vectors_of(z, self.dimensions).split(1, dim=1)
        first, middle = (self.first.weight * self.before).unbind(1), self.middle.weight * self.between
        last = (self.last.weight * self.after).unflatten(0, (2, -1)).unbind(1)
        bias = self.last.bias.unflatten(0, (2, -1)).unbind(1)
        # Each value is added to the first hidden layer as soon as it is there.
        hidden = self._offset(z, context).expand(len(z), -1)
        found: dict[int, tuple[Tensor, Tensor]] = {}  # values and log-scales by place, each (N, 1)
        for place in reversed(range(self.dimensions)) if self.reverse else range(self.dimensions):
            inner = F.relu(F.linear(F.relu(hidden), middle, self.middle.bias))
            log_scale, shift = log_scale_and_shift(F.linear(inner, last[place], bias[place]))
            x = (values[place] - shift) * torch.exp(-log_scale)
            hidden = hidden + x * first[place]
            found[place] = x, log_scale
        x, log_scales = (torch.cat(parts, 1) for parts in zip(*(found[n] for n in sorted(found)), strict=True))
        return x.view(z.shape), log_scales.view(z.shape)

    def _offset(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return what is added to the first hidden layer beside the values: the bias, and a map of the context."""
        check_context(context, len(x), self.context)
        return self.first.bias if self.of_context is None else self.first.bias + self.of_context(context)
