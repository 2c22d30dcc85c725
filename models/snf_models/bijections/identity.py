"""Identity layer, which takes the place of the pixel transform in flows over vectors."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from snf_models.bijections.base import Elementwise, Shape


class Identity(Elementwise):
    """Layer that returns its inputs unchanged, with log-determinant 0.

    It is the first layer of flows over vectors, and has no cost.
    """

    constant_log_det: ClassVar[bool] = True
    cheap_inverse: ClassVar[bool] = True

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` unchanged, and zeros as the logarithm of the slope at each value.

        Both have the shape of ``x``.
        """
        return x, torch.zeros_like(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``z`` unchanged, and the log-determinant 0 of the inverse for each sample.

        The log-determinants have the shape ``(N,)``.
        """
        return z, z.new_zeros(z.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return 0.0, the log-determinant of the identity map for inputs of any shape."""
        return 0.0
