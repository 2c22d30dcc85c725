"""Activation normalisation: an affine map per channel, initialised from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, Shape, check_images
from models.bijections.frozen import FrozenAffine
from models.errors import UninitializedModel


class ActNorm(ChannelAffine):
    """Scale and shift every channel: z_c = (x_c - t_c) exp(-l_c), log-det -H·W·Σ l (Kingma & Dhariwal 2018, 3.1).

    Cost: O(C·H·W) both ways, O(C) for the log-determinant. :meth:`initialize` must have seen a batch first; whether it
    has is a buffer, so a loaded model is never initialised again.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set shift and scale so that ``x``, shape ``(N, C, H, W)``, leaves with mean 0 and deviation 1 a channel."""
        check_images(x, self.channels)
        std, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
        # A channel that is constant in this batch says nothing of its scale: leave it at 1.
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        self.shift.copy_(mean)
        self.log_scale.copy_(std.log())
        self.initialized.fill_(True)

    def _check(self, x: Tensor) -> None:
        check_images(x, self.channels)
        if not self.initialized:
            raise UninitializedModel("ActNorm has seen no batch yet: call initialize, or load trained weights")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise ``x``, shape ``(N, C, H, W)``. Raises ``UninitializedModel`` before :meth:`initialize`."""
        self._check(x)
        scale = torch.exp(-self.log_scale).view(1, -1, 1, 1)
        return (x - self.shift.view(1, -1, 1, 1)) * scale, self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`."""
        self._check(z)
        scale = torch.exp(self.log_scale).view(1, -1, 1, 1)
        return z * scale + self.shift.view(1, -1, 1, 1), -self.log_det(z)

    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return the frozen map. Raises ``UninitializedModel`` before :meth:`initialize`."""
        if not self.initialized:
            raise UninitializedModel("ActNorm has seen no batch yet: a flow is frozen after initialize or loading")
        return super().freeze(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return diag(exp(-l)) and -t exp(-l)."""
        scale = torch.exp(-self.log_scale)
        return torch.diag(scale), -self.shift * scale

    def log_abs_det(self) -> Tensor:
        """Return -Σ l in float64. Cost: O(C)."""
        return -self.log_scale.double().sum()
