"""Squeeze: blocks of 2x2 pixels become channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.frozen import Inverse


class Squeeze(Bijection):
    """Invertible layer that moves each block of 2x2 pixels into channels.

    ``(N, C, H, W) -> (N, 4C, H/2, W/2)``.

    Channel c of a pixel becomes channel 4·c + 2·(row mod 2) + (column mod 2). It is a permutation, so the log-det is 0
    (Dinh et al. 2017, 3.6). Cost: one copy.
    """

    constant_log_det: ClassVar[bool] = True
    cheap_inverse: ClassVar[bool] = True

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of ``shape``.

        It is ``(4C, H/2, W/2)`` for an input of ``(C, H, W)``.
        """
        channels, height, width = shape
        return 4 * channels, height // 2, width // 2

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return 0.0, the log-determinant of a layer that only reorders values."""
        return 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images with each 2x2 pixel block moved into channels, and log-determinants of 0.

        The images become ``(N, 4C, H/2, W/2)``, and the log-determinant is ``(N,)``. Raises ``ValueError`` if H or W is
        odd.
        """
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"expected images (N, C, H, W) with even sides, got {tuple(x.shape)}")
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return images with their channels moved back to 2x2 pixel blocks, and log-determinants of 0.

        ``z``, ``(N, 4C, H, W)``, becomes ``(N, C, 2H, 2W)``. The log-determinant is ``(N,)``.
        """
        if z.dim() != 4 or z.shape[1] % 4:
            raise ValueError(f"expected images (N, 4C, H, W), got {tuple(z.shape)}")
        return F.pixel_shuffle(z, 2), z.new_zeros(z.shape[0])

    def freeze(self, shape: Shape) -> FrozenSqueeze:
        """Return this layer in its immutable form for scoring.

        It has the same map and inverse. There are no parameters to copy.
        """
        return FrozenSqueeze()


@dataclass(frozen=True)
class FrozenSqueeze:
    """Immutable layer for scoring that moves each block of 2x2 pixels into channels.

    ``(N, C, H, W) -> (N, 4C, H/2, W/2)``.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return the images with each 2x2 pixel block moved into channels, and None for the log-determinant.

        The images become ``(N, 4C, H/2, W/2)``. None stands for the log-determinant, which is 0.
        """
        return F.pixel_unshuffle(x, 2), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return images with their channels moved back to 2x2 pixel blocks.

        ``z``, ``(N, 4C, H, W)``, becomes ``(N, C, 2H, 2W)``.
        """
        return F.pixel_shuffle(z, 2)
