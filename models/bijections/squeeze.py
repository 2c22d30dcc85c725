"""Trade resolution for channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.bijections.base import Bijection, Shape
from models.bijections.frozen import Inverse


class Squeeze(Bijection):
    """Turn every 2x2 block into channels: ``(N, C, H, W) -> (N, 4C, H/2, W/2)``, log-det 0 (Dinh et al. 2017, 3.6).

    Output channel c·4 + 2·(row parity) + (column parity). Cost: one copy.
    """

    constant_log_det: ClassVar[bool] = True

    def output_shape(self, shape: Shape) -> Shape:
        """Return (4C, H/2, W/2)."""
        channels, height, width = shape
        return 4 * channels, height // 2, width // 2

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return 0: a permutation."""
        return 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squeeze ``x``. Raises ``ValueError`` where a side is odd."""
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"expected images (N, C, H, W) with even sides, got {tuple(x.shape)}")
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`. Raises ``ValueError`` where the channels are not a multiple of 4."""
        if z.dim() != 4 or z.shape[1] % 4:
            raise ValueError(f"expected images (N, 4C, H, W), got {tuple(z.shape)}")
        return F.pixel_shuffle(z, 2), z.new_zeros(z.shape[0])

    def freeze(self, shape: Shape) -> FrozenSqueeze:
        """Return the squeeze: it has nothing to store."""
        return FrozenSqueeze()


@dataclass(frozen=True)
class FrozenSqueeze:
    """A frozen squeeze."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Squeeze ``x``."""
        return F.pixel_unshuffle(x, 2), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Undo :meth:`forward`."""
        return F.pixel_shuffle(z, 2)
