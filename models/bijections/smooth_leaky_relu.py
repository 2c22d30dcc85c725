"""A smooth activation that is invertible everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.bijections.base import Elementwise, sum_samples


class SmoothLeakyReLU(Elementwise):
    """z = αx + (1 - α)·log(1 + e^x), log-det Σ log(α + (1 - α)σ(x)) (Gresele et al. 2020; Keller et al. 2021, 5.1).

    Cost: O(N·D), the inverse ``NEWTON_STEPS`` times that.
    """

    NEWTON_STEPS = 7
    """The inverse is exact to rounding with 5 where α = 0.3, with 7 down to the smallest α."""
    MIN_ALPHA = 0.01

    def __init__(self, alpha: float = 0.3) -> None:
        super().__init__()
        if not self.MIN_ALPHA <= alpha < 1:
            raise ValueError(f"alpha must lie in [{self.MIN_ALPHA}, 1), got {alpha}")
        self.alpha = alpha

    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, ...)``."""
        return self._value(x), torch.log(self._slope(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by Newton's method.

        The map is convex and lies above both of its asymptotes. Their inverse is where the iteration starts: right of
        the solution, which it then approaches from that side without ever leaving it.
        """
        x = torch.minimum(z, z / self.alpha)
        for _ in range(self.NEWTON_STEPS):
            x = x - (self._value(x) - z) / self._slope(x)
        return x, -sum_samples(torch.log(self._slope(x)))

    def _value(self, x: Tensor) -> Tensor:
        # Beyond its default threshold of 20 softplus drops 2e-9.
        return self.alpha * x + (1 - self.alpha) * F.softplus(x, threshold=40)

    def _slope(self, x: Tensor) -> Tensor:
        return self.alpha + (1 - self.alpha) * torch.sigmoid(x)
