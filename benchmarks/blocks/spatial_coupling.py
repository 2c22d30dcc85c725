"""Spatial coupling: the pixels of one colour of a checkerboard determine scale and shift of the others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.coupling import AffineCoupling
from snf_models.bijections.frozen import FrozenMap


class SpatialCoupling(Bijection):
    """Affine coupling of the two colours of a checkerboard, all channels of each (Dinh et al. 2017, 3.4).

    The pixels of each colour are packed into images of half the width, and coupled as channels are.

    Args:
        channels: Channels C of the images.
        width: Channels of the hidden layers of the network.
        size: Height and width of the images, the width even.
        place: Whether the network depends on the place.
        swapped: Whether the black pixels are scaled and shifted in place of the white ones.
    """

    cheap_inverse: ClassVar[bool] = True

    def __init__(self, channels: int, width: int, size: tuple[int, int], *, place: bool, swapped: bool) -> None:
        super().__init__()
        self.packed = (2 * channels, size[0], size[1] // 2)
        self.coupling = AffineCoupling(2 * channels, width, self.packed[1:] if place else None)
        self.swapped = swapped

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = (x1, s·x2 + t) of the colours x1 and x2 of ``x``, and log|det dz/dx|, ``(N,)``."""
        z, log_det = self.coupling(packed(x, self.swapped))
        return unpacked(z, self.swapped), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = (z1, (z2 - t)/s) of the colours z1 and z2 of ``z``, and log|det dx/dz|, ``(N,)``."""
        x, log_det = self.coupling.inverse(packed(z, self.swapped))
        return unpacked(x, self.swapped), log_det

    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable copy for scoring, whose network computes in float32 and all else in float64."""
        frozen, swapped = self.coupling.freeze(self.packed), self.swapped

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_det = frozen.forward(packed(x, swapped))
            zeros = torch.zeros_like(log_det)
            return unpacked(z, swapped), unpacked(torch.stack([zeros, log_det], 1), swapped).squeeze(1)

        return FrozenMap(forward, lambda z: unpacked(frozen.inverse(packed(z, swapped), "exact"), swapped))


def packed(x: Tensor, swapped: bool) -> Tensor:
    """Return the two colours of a checkerboard as channels, ``(N, C, H, W) -> (N, 2 C, H, W/2)``."""
    pairs = x.unflatten(3, (-1, 2))
    white = _white(x.shape[2], swapped)
    first, second = pairs[..., 0], pairs[..., 1]
    return torch.cat([torch.where(white, first, second), torch.where(white, second, first)], 1)


def unpacked(y: Tensor, swapped: bool) -> Tensor:
    """Return the images of which :func:`packed` gives ``y``, ``(N, 2 C, H, W/2) -> (N, C, H, W)``."""
    one, other = y.chunk(2, 1)
    white = _white(y.shape[2], swapped)
    return torch.stack([torch.where(white, one, other), torch.where(white, other, one)], -1).flatten(3)


def _white(height: int, swapped: bool) -> Tensor:
    """Return whether the first pixel of each pair is of the first colour, by row, ``(H, 1)``."""
    return (torch.arange(height) % 2 == int(swapped)).unsqueeze(1)
