"""Smooth leaky ReLU: a smooth, strictly increasing activation."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from snf_models.bijections.base import Elementwise, sum_samples


class SmoothLeakyReLU(Elementwise):
    """Smooth leaky ReLU, an invertible activation.

    It is z = α·x + (1 - α)·log(1 + e^x), with slopes from α to 1.

    The log-det is Σ log(α + (1 - α)·σ(x)) with the logistic function σ (Gresele et al. 2020; Keller et al. 2021, 5.1).
    Cost: O(N·D) for D values, and ``NEWTON_STEPS`` times that for the inverse.

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
        """Return the outputs of the activation and the logarithm of its slope at each value.

        They are z = α·x + (1 - α)·log(1 + e^x) and log(dz/dx), both in the shape of ``x``.
        """
        return self._value(x), torch.log(self._slope(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the activation maps to ``z``, and each sample's log-determinant of the inverse.

        x is computed by 7 Newton steps. The log-determinant log|det dx/dz| is in nats, ``(N,)``.

        The map is convex and lies above its two asymptotes. The iteration starts at the inverse of the asymptotes,
        which is right of the solution, and approaches the solution from there monotonically.
        """
        x = torch.minimum(z, z / self.alpha)
        for _ in range(self.NEWTON_STEPS):
            x = x - (self._value(x) - z) / self._slope(x)
        return x, -sum_samples(torch.log(self._slope(x)))

    def _value(self, x: Tensor) -> Tensor:
        # Beyond its default threshold of 20, softplus has an error of 2e-9.
        return self.alpha * x + (1 - self.alpha) * F.softplus(x, threshold=40)

    def _slope(self, x: Tensor) -> Tensor:
        return self.alpha + (1 - self.alpha) * torch.sigmoid(x)
