"""Affine coupling with bounded scales: half of the channels determine scale and shift of the other half."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bijections.autograd_calls import call
from models.bijections.base import Bijection, Shape, check_images, sum_samples
from models.bijections.coupling_products import CouplingProducts
from models.bijections.frozen import Inverse

LOG_SCALE_BOUND = 2.0
"""Bound of |log s|, so that a coupling multiplies by at most e² (Keller et al. 2021, published settings)."""

PRODUCTS_FROM_WIDTH = 64
"""Least width of a network that products train faster than convolutions, in bfloat16 on a CPU."""

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a convolution."""


class CouplingNet(nn.Module):
    """Network that computes the scales and shifts of a coupling layer.

    It has 3x3, 1x1 and 3x3 convolutions with ReLUs between them. For an additive coupling it computes shifts only.

    The last layer starts at zero, so that a coupling starts as the identity.
    Cost: O(N·H·W·width·(9·in + width + 9·out)).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels of the hidden layers.
        places: Height and width of the inputs for a network that depends on the place, by a learned map that is added
            to the first convolution; None for the same network at all places and for any size.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, places: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *places)) if places is not None else None
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

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-scales and shifts for a coupling layer, or shifts alone for an additive coupling.

        They are ``(N, out, H, W)``. In an affine coupling they are log-scales in the first half of the channels, then
        shifts.

        The log-scales are unbounded.

        Raises:
            ValueError: The network depends on the place, and ``x`` has another height or width.
        """
        if self.place is not None and x.shape[2:] != self.place.shape[1:]:
            height, width = self.place.shape[1:]
            raise ValueError(f"expected images of {height}x{width}, got {x.shape[2]}x{x.shape[3]}")
        products = self.training and self.autocast is not None and x.device.type == "cpu"
        wide = len(self.first.weight) >= PRODUCTS_FROM_WIDTH
        output = self._products(x) if products and wide else self._convolutions(x)
        # As in the original Glow: under Adam the gain enlarges the steps of the layer that starts at zero.
        return output.to(x.dtype) * torch.exp(3 * self.log_gain).view(1, -1, 1, 1)

    def _convolutions(self, x: Tensor) -> Tensor:
        # Meta tensors, on which work is counted, have no autocast of their own.
        with torch.autocast("cpu" if x.is_meta else x.device.type, self.autocast, enabled=self.autocast is not None):
            hidden = self.first(x)
            # In place: no convolution needs its own output for the backward pass.
            hidden = F.relu_(hidden if self.place is None else hidden + self.place)
            hidden = F.relu_(self.middle(hidden))
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
        """Return float64 copies of the weights and biases of the network's three convolutions, for scoring.

        The learned gain is folded into the last convolution.
        """
        first, middle, (weight, bias) = (
            (layer.weight.double().clone(), _bias(layer).double().clone())
            for layer in (self.first, self.middle, self.last)
        )
        gain = torch.exp(3 * self.log_gain.double())
        return first, middle, (weight * gain.view(-1, 1, 1, 1), bias * gain)


class AffineCoupling(Bijection):
    """Affine coupling layer: half of the channels determine scale and shift of the rest.

    A network of the first half, which stays as it is, gives scales and shifts (Dinh et al. 2017).

    z1 = x1 and z2 = s(x1)·x2 + t(x1), with the log-det Σ log s (Dinh et al. 2017, 3.2). x1 and x2 are the two halves of
    the channels, x1 the larger one if C is odd. A network of x1 gives h and t, and log s = 2·tanh(h/2) bounds the
    scales (Keller et al. 2021, published code).

    Cost: that of the network, the same in both directions.

    Args:
        channels: The number of channels C.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
    """

    cheap_inverse: ClassVar[bool] = True

    def __init__(self, channels: int, width: int, places: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.kept = (channels + 1) // 2
        self.net = CouplingNet(self.kept, 2 * (channels - self.kept), width, places)

    def scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-scales and shifts for the channels that the coupling changes.

        The network computes them from ``kept``. The log-scales are in [-2, 2].

        Each is ``(N, C - K, H, W)`` for ``kept``, ``(N, K, H, W)``.
        """
        logits, shift = self.net(kept).chunk(2, dim=1)
        return LOG_SCALE_BOUND * torch.tanh(logits / LOG_SCALE_BOUND), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        z = (x1, s·x2 + t) with scales s and shifts t computed from x1. The log-determinant log|det dz/dx| is ``(N,)``.
        """
        check_images(x, self.channels)
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept)
        return torch.cat([kept, moved * torch.exp(log_scale) + shift], dim=1), sum_samples(log_scale)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        x = (z1, (z2 - t)/s) with scales s and shifts t computed from z1. The log-determinant log|det dx/dz| is
        ``(N,)``.
        """
        check_images(z, self.channels)
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1), -sum_samples(log_scale)

    def freeze(self, shape: Shape) -> FrozenCoupling:
        """Return an immutable copy of this layer for scoring.

        Its network computes in float32 and all else in float64.

        The gain of the last layer is folded into its weights.
        """
        first, middle, last = (
            (weight.float().contiguous(memory_format=torch.channels_last), bias.float())
            for weight, bias in self.net.settled()
        )
        place = None if self.net.place is None else self.net.place.detach().float().clone()
        return FrozenCoupling(self.kept, first, middle, last, place)


@dataclass(frozen=True)
class FrozenCoupling:
    """Immutable affine coupling layer for scoring.

    Its network computes in float32, its 1x1 convolution optionally in bfloat16. All else is in float64.

    Attributes:
        kept: Channels of the half that is kept.
        first: Weight and bias of the first convolution.
        middle: Weight and bias of the 1x1 convolution, most of the work; may be in bfloat16 (:meth:`in_bfloat16`).
        last: Weight and bias of the last convolution.
        place: The map that is added to the result of the first convolution, ``(width, H, W)``, or None.
    """

    kept: int
    first: Weights
    middle: Weights
    last: Weights
    place: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and each pixel's contribution to the Jacobian's log-determinant.

        z is ``(N, C, H, W)``. The parts add up to log|det dz/dx| in nats, ``(N, H, W)``.
        """
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, moved * log_scale.exp() + shift], dim=1), log_scale.sum(1)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the exact inputs that the layer maps to the outputs ``z``.

        ``z`` is ``(N, C, H, W)``. The layer learns no inverse, so the argument ``inverse`` has no effect.
        """
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)

    def in_bfloat16(self) -> FrozenCoupling:
        """Return a copy of this layer whose network computes its middle convolution in bfloat16, which is faster.

        The middle convolution is 1x1.

        This object is unchanged.

        The sums of the convolution are in float32.
        """
        weight, bias = self.middle
        return replace(self, middle=(weight.bfloat16(), bias.bfloat16()))

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        hidden = kept.float().contiguous(memory_format=torch.channels_last)
        hidden = F.conv2d(hidden, *self.first, padding=1)
        hidden = F.relu_(hidden if self.place is None else hidden + self.place)
        hidden = F.relu_(F.conv2d(hidden.to(self.middle[0].dtype), *self.middle)).float()
        logits, shift = F.conv2d(hidden, *self.last, padding=1).double().chunk(2, dim=1)
        return LOG_SCALE_BOUND * torch.tanh(logits / LOG_SCALE_BOUND), shift


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
