"""Additive coupling layers, whose shifts may depend on the position in the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from snf_models.bijections.base import Shape, refuse_context
from snf_models.bijections.coupling import HalfCoupling, Weights
from snf_models.bijections.frozen import Inverse


class AdditiveCoupling(HalfCoupling):
    """Additive coupling layer: half of the channels determine a shift of the rest.

    A network of the first half, which stays as it is, gives the shift (Dinh et al. 2015, 3.2).

    z1 = x1 and z2 = x2 + t(x1), where x1 and x2 are the two halves of the channels, x1 the larger one if C is odd. The
    log-det is 0. t starts at 0.

    Cost: that of the network, the same in both directions.

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
        """Return 0.0, the log-determinant of every additive coupling."""
        return 0.0

    def freeze(self, shape: Shape) -> FrozenAdditiveCoupling:
        """Return an immutable float64 copy of this layer for scoring."""
        refuse_context(self.context)
        place = None if self.net.place is None else self.net.place.detach().double().clone()
        return FrozenAdditiveCoupling(self.kept, *self.net.settled(), place)


class PlaceCoupling(AdditiveCoupling):
    """Additive coupling layer with position-dependent shifts, which needs images of one fixed size.

    The network adds a learned map, the same for all images, to the result of its first convolution, so that t may
    differ from place to place.

    Args:
        shape: Channels C, at least 2, height and width of the grid of places.
        hidden: Channels of the hidden layers of the network.
        context: The length K of the context; 0 for a layer without one.
    """

    def __init__(self, shape: Shape, hidden: int, *, context: int = 0) -> None:
        super().__init__(shape[0], hidden, shape[1:], context=context)
        self.shape = shape

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1:] != self.shape:
            raise ValueError(f"expected a tensor of shape (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return x[:, : self.kept], x[:, self.kept :]


@dataclass(frozen=True)
class FrozenAdditiveCoupling:
    """Immutable float64 copy of a trained additive coupling layer, for scoring and sampling images.

    Attributes:
        kept: Channels of the half that is kept.
        first: Weight and bias of the first convolution.
        middle: Weight and bias of the 1x1 convolution.
        last: Weight and bias of the last convolution.
        place: The map that is added to the result of the first convolution, ``(hidden, H, W)``, or None.
    """

    kept: int
    first: Weights
    middle: Weights
    last: Weights
    place: Tensor | None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return the layer's outputs, and None in place of the log-determinant, which is always 0.

        z is ``(N, C, H, W)``. The log-determinant is 0 for all inputs.
        """
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        return torch.cat([kept, moved + self._shift(kept)], dim=1), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the exact inputs that the layer maps to the outputs ``z``.

        ``z`` is ``(N, C, H, W)``. The layer learns no inverse, so the argument ``inverse`` has no effect.
        """
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([kept, moved - self._shift(kept)], dim=1)

    def _shift(self, kept: Tensor) -> Tensor:
        hidden = F.conv2d(kept, *self.first, padding=1)
        hidden = F.relu(hidden if self.place is None else hidden + self.place)
        hidden = F.relu(F.conv2d(hidden, *self.middle))
        return F.conv2d(hidden, *self.last, padding=1)
