"""Coupling layers: half of the channels, and a context, determine a monotone map of each value of the other half.

The maps are shifts, affine with bounded scales, or rational-quadratic splines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.activations import Knots, check_spline, knots_of
from snf_models.bijections.base import (
    Conditional,
    Shape,
    call,
    check_context,
    check_images,
    check_shape,
    first_derivatives,
    refuse_context,
)
from snf_models.bijections.frozen import Inverse

SIDE = 3
TAPS = SIDE * SIDE

ImageBatchSize = tuple[int, int, int]  # height and width of images, and their number


class CouplingProducts(torch.autograd.Function):
    """The three convolutions of a coupling network with ReLUs between them, as matrix products: faster on a CPU.

    Each convolution is a product of a matrix and all P = H·W·N pixels. The first one multiplies the 3x3 surroundings of
    the pixels, ``(9K, P)``; the last one gives the share of each pixel in its 3x3 surroundings, ``(9·out, P)``, and the
    shares are summed. A row of ones takes the biases into the products. A library of convolutions wastes most of its
    vector registers where there are few channels on one side. The images are the last dimension, so that pixels which
    are moved or added together are neighbours in memory whatever the channels.

    Products are in ``dtype``, sums of shares in float32. Each direction reads and writes the surroundings once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dtype: torch.dtype,
        first: Tensor,
        first_bias: Tensor,
        place: Tensor | None,
        middle: Tensor,
        middle_bias: Tensor,
        last: Tensor,
        last_bias: Tensor,
    ) -> Tensor:
        """Return the outputs of the network, ``(N, K, H, W) -> (N, out, H, W)``; products are in ``dtype``."""
        images, _, height, width = x.shape
        size = height, width, images
        weights = (
            _with_bias(first.permute(0, 2, 3, 1).flatten(1), first_bias).to(dtype),
            _with_bias(middle.flatten(1), middle_bias).to(dtype),
            _by_shares(last).to(dtype),
        )
        surroundings = _surroundings(x.to(dtype), ones=True)
        # The row of ones below the outputs takes the bias of the next product.
        hidden = torch.ones(len(first) + 1, surroundings.shape[1], dtype=dtype)
        outputs = torch.mm(weights[0], surroundings, out=hidden[:-1])
        if place is not None:
            outputs.view(-1, *size).add_(place.to(dtype).unsqueeze(-1))
        F.relu_(outputs)
        second = F.relu_(weights[1] @ hidden)
        ctx.save_for_backward(surroundings, hidden, second, *weights)
        ctx.size, ctx.has_place, ctx.dtypes = size, place is not None, (x.dtype, first.dtype)
        return _sum_of_shares(weights[2] @ second, size).to(x.dtype).add_(last_bias.to(x.dtype).view(-1, 1, 1))

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        surroundings, hidden, second, first, middle, last = ctx.saved_tensors
        of_input, of_weights = ctx.dtypes
        shares = _surroundings(grad.to(first.dtype))
        grad_second = _masked(last.T @ shares, second)
        grad_hidden = _masked(middle[:, :-1].T @ grad_second, hidden[:-1])
        grad_last = (shares @ second.T).to(of_weights)
        grad_middle = (grad_second @ hidden.T).to(of_weights)
        grad_first = (grad_hidden @ surroundings.T).to(of_weights)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _sum_of_shares(first[:, :-1].T @ grad_hidden, ctx.size).to(of_input)
        grad_place = grad_hidden.view(-1, *ctx.size).sum(-1).to(of_weights) if ctx.has_place else None
        width = len(middle)
        return (
            grad_x,
            None,
            grad_first[:, :-1].view(width, SIDE, SIDE, -1).permute(0, 3, 1, 2),
            grad_first[:, -1],
            grad_place,
            grad_middle[:, :-1].view(width, width, 1, 1),
            grad_middle[:, -1],
            grad_last.view(SIDE, SIDE, -1, width).permute(2, 3, 0, 1).flip(2, 3),
            grad.sum((0, 2, 3)).to(of_weights),
        )


def _with_bias(matrix: Tensor, bias: Tensor) -> Tensor:
    """Return a matrix with the bias of its outputs as last column, ``(O, I + 1)``."""
    return torch.cat([matrix, bias.unsqueeze(1)], 1)


def _by_shares(weight: Tensor) -> Tensor:
    """Return a kernel ``(O, I, 3, 3)`` as a matrix that gives the share of a pixel in its surroundings, ``(9 O, I)``.

    Taps are mirrored: the left tap adds a pixel to the output that lies to its right.
    """
    return weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)


def _surroundings(x: Tensor, *, ones: bool = False) -> Tensor:
    """Return the 3x3 pixels around each pixel, zeros beyond the border, ``(9 C, H·W·N)``, and a row of ``ones``."""
    images, channels, height, width = x.shape
    padded = x.new_zeros(channels, height + 2, width + 2, images)
    padded[:, 1:-1, 1:-1] = x.permute(1, 2, 3, 0)
    of_channel, of_row, of_pixel, _ = padded.stride()
    windows = padded.as_strided(
        (SIDE, SIDE, channels, height, width, images), (of_row, of_pixel, of_channel, of_row, of_pixel, 1)
    )
    rows = x.new_ones(TAPS * channels + ones, height * width * images)
    rows[: TAPS * channels].view(windows.shape).copy_(windows)
    return rows


def _sum_of_shares(shares: Tensor, size: ImageBatchSize) -> Tensor:
    """Return the sum of all shares in each pixel, ``(9 C, H·W·N) -> (N, C, H, W)``: the transpose of surroundings."""
    height, width, images = size
    taps = shares.view(SIDE, SIDE, -1, *size)
    # Sums are in float32 at least.
    dtype = torch.promote_types(shares.dtype, torch.float32)
    padded = torch.zeros(taps.shape[2], height + 2, width + 2, images, dtype=dtype)
    for row in range(SIDE):
        for column in range(SIDE):
            padded[:, row : row + height, column : column + width] += taps[row, column]
    return padded[:, 1:-1, 1:-1].permute(3, 0, 1, 2).contiguous()


def _masked(grad: Tensor, output: Tensor) -> Tensor:
    """Return the gradient of the inputs of a ReLU with the given outputs; ``grad`` is overwritten."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=grad)
    return masked


LOG_SCALE_BOUND = 2.0
"""Bound of |log s|, so that a coupling multiplies by at most e² (Keller et al. 2021, published settings)."""

PRODUCTS_FROM_WIDTH = 64  # least width of a network that products train faster than convolutions, in bfloat16 on a CPU

Weights = tuple[Tensor, Tensor]  # weight and bias of a convolution


class CouplingNet(nn.Module):
    """Network of a coupling: 3x3, 1x1 and 3x3 convolutions with ReLUs between them.

    The last layer starts at zero, so that a coupling starts as the identity.
    Cost: O(N·H·W·width·(9·in + width + 9·out)).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels of the hidden layers.
        places: Height and width of the inputs for a network that depends on the place, by a learned map that is added
            to the first convolution; None for the same network at all places and for any size.
        context: Length K of the context, of which a learned linear map is added to the first convolution; 0 for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int, places: tuple[int, int] | None = None, context: int = 0
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *places)) if places is not None else None
        self.of_context = nn.Linear(context, width, bias=False) if context else None
        self.middle = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.log_gain = nn.Parameter(torch.zeros(out_channels))
        self.autocast: torch.dtype | None = None
        """Type of the convolutions in mixed-precision training, or None for the type of the input."""
        for convolution in (self.first, self.middle):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        check_context(context, len(x), self.of_context.in_features if self.of_context is not None else 0)
        if self.place is not None and x.shape[2:] != self.place.shape[1:]:
            height, width = self.place.shape[1:]
            raise ValueError(f"expected images of {height}x{width}, got {x.shape[2]}x{x.shape[3]}")
        products = self.training and self.autocast is not None and x.device.type == "cpu"
        wide = len(self.first.weight) >= PRODUCTS_FROM_WIDTH
        output = self._products(x) if products and wide and context is None else self._convolutions(x, context)
        # As in the original Glow: under Adam the gain enlarges the steps of the layer that starts at zero.
        return output.to(x.dtype) * torch.exp(3 * self.log_gain).view(1, -1, 1, 1)

    def _convolutions(self, x: Tensor, context: Tensor | None) -> Tensor:
        # Meta tensors, on which work is counted, have no autocast of their own.
        with torch.autocast("cpu" if x.is_meta else x.device.type, self.autocast, enabled=self.autocast is not None):
            hidden = self.first(x)
            if self.place is not None:
                hidden = hidden + self.place
            if self.of_context is not None:
                hidden = hidden + self.of_context(context)[..., None, None]
            # In place: no convolution needs its own output for the backward pass.
            hidden = F.relu_(self.middle(F.relu_(hidden)))
            output: Tensor = self.last(hidden)
        return output

    def _products(self, x: Tensor) -> Tensor:
        output: Tensor = call(
            CouplingProducts,
            x,
            self.autocast,
            self.first.weight,
            self.first.bias,
            self.place,
            self.middle.weight,
            self.middle.bias,
            self.last.weight,
            self.last.bias,
        )
        return output

    @torch.no_grad()
    def settled(self) -> tuple[Weights, Weights, Weights]:
        """Return float64 weights and biases of the three convolutions, with the gain folded into the last."""
        first, middle, (weight, bias) = (
            (layer.weight.double().clone(), _bias(layer).double().clone())
            for layer in (self.first, self.middle, self.last)
        )
        gain = torch.exp(3 * self.log_gain.double())
        return first, middle, (weight * gain.view(-1, 1, 1, 1), bias * gain)


def log_scale_and_shift(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounded log-scales 2·tanh(h/2) and shifts t for h, then t along the second axis of ``numbers``."""
    logits, shift = numbers.chunk(2, dim=1)
    return LOG_SCALE_BOUND * torch.tanh(logits / LOG_SCALE_BOUND), shift


class HalfCoupling(Conditional):
    """Base class of couplings z1 = x1 and z2 = g(x2; h(x1, c)), monotone in each value of x2.

    x1 and x2 are the two halves of the channels, x1 the larger one if C is odd; h is a network, c the context if there
    is one. The log-det is Σ log g'(x2). ``numbers`` outputs of the network determine the map of a value.
    """

    cheap_inverse: ClassVar[bool] = True

    def __init__(
        self, channels: int, numbers: int, width: int, places: tuple[int, int] | None = None, context: int = 0
    ) -> None:
        super().__init__(context)
        self.channels = channels
        self.width = width
        self.place = places is not None
        self.kept = (channels + 1) // 2
        self.net = CouplingNet(self.kept, numbers * (channels - self.kept), width, places, context)

    @abstractmethod
    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return g(x2) and log g'(x2) for x2 = ``moved``, ``(N, M, H, W)``, and outputs ``numbers`` of the network."""

    @abstractmethod
    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values x2 that :meth:`transform` maps to ``moved``, and log g'(x2)."""

    def map_with_slope(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._halves(x)
        moved, log_slope = self.transform(moved, self.net(kept, context))
        return torch.cat([kept, moved], dim=1), log_slope

    def inverse_with_slope(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._halves(z)
        moved, log_slope = self.restore(moved, self.net(kept, context))
        return torch.cat([kept, moved], dim=1), log_slope

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_images(x, self.channels)
        return x[:, : self.kept], x[:, self.kept :]


class AffineCoupling(HalfCoupling):
    """Affine coupling z1 = x1 and z2 = s(x1)·x2 + t(x1), with the log-det Σ log s (Dinh et al. 2017, 3.2).

    x1 and x2 are the two halves of the channels, x1 the larger one if C is odd. A network of x1 gives h and t, and
    log s = 2·tanh(h/2) bounds the scales (Keller et al. 2021, published code). With a context c they are s(x1, c) and
    t(x1, c) (Winkler et al. 2019).

    Args:
        channels: The number of channels C.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
        context: The length K of the context; 0 for a layer without one.
    """

    def __init__(self, channels: int, width: int, places: tuple[int, int] | None = None, *, context: int = 0) -> None:
        super().__init__(channels, 2, width, places, context)

    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = log_scale_and_shift(numbers)
        return moved * torch.exp(log_scale) + shift, log_scale

    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = log_scale_and_shift(numbers)
        return (moved - shift) * torch.exp(-log_scale), log_scale

    def freeze(self, shape: Shape) -> FrozenCoupling:
        refuse_context(self.context)
        first, middle, last = (
            (weight.float().contiguous(memory_format=torch.channels_last), bias.float())
            for weight, bias in self.net.settled()
        )
        place = None if self.net.place is None else self.net.place.detach().float().clone()
        return FrozenCoupling(self.kept, first, middle, last, place)


class SplineCoupling(HalfCoupling):
    """Spline coupling z1 = x1 and z2 = g(x2; h(x1, c)), with the log-det Σ log g'(x2) (Durkan et al. 2019).

    g is a rational-quadratic spline on [-bound, bound] and the identity outside. A network of x1, the half that stays,
    and of the context c gives the widths and heights of the bins and the slopes at inner knots. The layer starts as the
    identity.

    Args:
        channels: The number of channels C.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
        bins: The number of bins of each spline, at least 2.
        bound: The end of the interval.
        context: The length K of the context; 0 for a layer without one.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        places: tuple[int, int] | None = None,
        bins: int = 8,
        bound: float = 5.0,
        *,
        context: int = 0,
    ) -> None:
        check_spline(bins, bound)
        super().__init__(channels, 3 * bins - 1, width, places, context)
        self.bins = bins
        self.bound = bound

    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(Knots.map_with_slope, moved, numbers)

    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(Knots.inverse_with_slope, moved, numbers)

    def _map(
        self, direction: Callable[[Knots, Tensor], tuple[Tensor, Tensor]], moved: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        # One spline for each value of each image: all values of the batch are those of one image.
        by_value = numbers.unflatten(1, (3 * self.bins - 1, -1)).transpose(0, 1).flatten(1).T
        widths, heights, slopes = by_value.split([self.bins, self.bins, self.bins - 1], dim=1)
        values, log_slope = direction(knots_of(widths, heights, slopes, self.bound), moved.reshape(1, -1))
        return values.view(moved.shape), log_slope.view(moved.shape)


@dataclass(frozen=True)
class FrozenCoupling:
    """Frozen form of an affine coupling: its network in float32, all else in float64."""

    kept: int
    first: Weights
    middle: Weights
    last: Weights
    place: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, moved * log_scale.exp() + shift], dim=1), log_scale.sum(1)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)

    def in_bfloat16(self) -> FrozenCoupling:
        """Return a copy whose 1x1 convolution, most of the work, is in bfloat16 with sums in float32."""
        weight, bias = self.middle
        return replace(self, middle=(weight.bfloat16(), bias.bfloat16()))

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        hidden = kept.float().contiguous(memory_format=torch.channels_last)
        hidden = F.conv2d(hidden, *self.first, padding=1)
        hidden = F.relu_(hidden if self.place is None else hidden + self.place)
        hidden = F.relu_(F.conv2d(hidden.to(self.middle[0].dtype), *self.middle)).float()
        return log_scale_and_shift(F.conv2d(hidden, *self.last, padding=1).double())


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


class AdditiveCoupling(HalfCoupling):
    """Additive coupling z1 = x1 and z2 = x2 + t(x1), with log-det 0 (Dinh et al. 2015, 3.2); t starts at 0.

    Args:
        channels: Channels C, at least 2.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
        context: The length K of the context, of which t is a function, too; 0 for a layer without one.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, channels: int, width: int, places: tuple[int, int] | None = None, *, context: int = 0) -> None:
        if channels < 2:
            raise ValueError(f"expected at least 2 channels to couple, got {channels}")
        super().__init__(channels, 1, width, places, context)

    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return moved + numbers, torch.zeros_like(moved)

    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return moved - numbers, torch.zeros_like(moved)

    def constant_log_det_at(self, shape: Shape) -> float:
        return 0.0

    def freeze(self, shape: Shape) -> FrozenAdditiveCoupling:
        refuse_context(self.context)
        place = None if self.net.place is None else self.net.place.detach().double().clone()
        return FrozenAdditiveCoupling(self.kept, *self.net.settled(), place)


class PlaceCoupling(AdditiveCoupling):
    """Additive coupling for images of one size, whose network adds a learned map of places to its first convolution.

    Args:
        shape: Channels C, at least 2, height and width of the grid of places.
        width: Channels of the hidden layers of the network.
        context: The length K of the context; 0 for a layer without one.
    """

    def __init__(self, shape: Shape, width: int, *, context: int = 0) -> None:
        super().__init__(shape[0], width, shape[1:], context=context)
        self.shape = shape

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_shape(x, self.shape)
        return x[:, : self.kept], x[:, self.kept :]


@dataclass(frozen=True)
class FrozenAdditiveCoupling:
    """Frozen form of an additive coupling, in float64."""

    kept: int
    first: Weights
    middle: Weights
    last: Weights
    place: Tensor | None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        return torch.cat([kept, moved + self._shift(kept)], dim=1), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([kept, moved - self._shift(kept)], dim=1)

    def _shift(self, kept: Tensor) -> Tensor:
        hidden = F.conv2d(kept, *self.first, padding=1)
        hidden = F.relu(hidden if self.place is None else hidden + self.place)
        hidden = F.relu(F.conv2d(hidden, *self.middle))
        return F.conv2d(hidden, *self.last, padding=1)
