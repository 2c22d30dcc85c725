"""Squeeze: blocks of 2x2 pixels become channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.bijections.base import Bijection, Shape
from models.bijections.frozen import Inverse


class Squeeze(Bijection):
    """Squeeze operation of a multi-scale flow: 2x2 pixel blocks become channels, ``(N, C, H, W) -> (N, 4C, H/2, W/2)``.

    Channel c of a pixel becomes channel 4·c + 2·(row mod 2) + (column mod 2). It is a permutation, so the log-det is 0
    (Dinh et al. 2017, 3.6). Cost: one copy.
    """

    constant_log_det: ClassVar[bool] = True

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape ``(4C, H/2, W/2)`` of squeezed images for images ``(C, H, W)``."""
        channels, height, width = shape
        return 4 * channels, height // 2, width // 2

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return 0, the log-determinant of a permutation of values."""
        return 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` squeezed to ``(N, 4C, H/2, W/2)`` and the log-det 0. Raises ``ValueError`` for odd sides."""
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"expected images (N, C, H, W) with even sides, got {tuple(x.shape)}")
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return squeezed images ``z`` as ``(N, C, H, W)`` with channels back in 2x2 blocks, and the log-det 0."""
        if z.dim() != 4 or z.shape[1] % 4:
            raise ValueError(f"expected images (N, 4C, H, W), got {tuple(z.shape)}")
        return F.pixel_shuffle(z, 2), z.new_zeros(z.shape[0])

    def freeze(self, shape: Shape) -> FrozenSqueeze:
        """Return the squeeze as an immutable step for scoring. It has no parameters."""
        return FrozenSqueeze()


@dataclass(frozen=True)
class FrozenSqueeze:
    """Immutable squeeze for scoring: 2x2 pixel blocks become channels."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return images ``x`` squeezed to ``(N, 4C, H/2, W/2)``, and None, because the log-det is 0."""
        return F.pixel_unshuffle(x, 2), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return squeezed images ``z`` with their channels moved back to 2x2 pixel blocks, ``(N, C, H, W)``."""
        return F.pixel_shuffle(z, 2)
