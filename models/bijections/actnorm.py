"""Activation normalisation: a scale and a shift for each channel, initialised from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, Shape, check_images
from models.bijections.frozen import FrozenAffine
from models.errors import UninitializedModel


class ActNorm(ChannelAffine):
    """Activation normalisation: a learned scale and shift for each channel, z_c = (x_c - t_c)·exp(-l_c).

    The log-det is -H·W·Σ_c l_c (Kingma & Dhariwal 2018, 3.1). :meth:`initialize` sets t and l from a batch before the
    first use. The flag ``initialized`` is a buffer and saved with the weights, so a loaded layer is not initialised
    again.

    Cost: O(N·C·H·W) in both directions, O(C) for the log-det.

    Args:
        channels: The number of channels C.
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
        """Set shift and scale so that a batch ``x``, ``(N, C, H, W)``, gets mean 0 and deviation 1 in each channel."""
        check_images(x, self.channels)
        std, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
        # The scale of a channel that is constant in this batch is unknown: leave it at 1.
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        self.shift.copy_(mean)
        self.log_scale.copy_(std.log())
        self.initialized.fill_(True)

    def _check(self, x: Tensor) -> None:
        check_images(x, self.channels)
        if not self.initialized:
            raise UninitializedModel(
                "ActNorm is not initialised: call initialize with a batch, or load trained weights"
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x - t)·exp(-l) for images ``x``, ``(N, C, H, W)``, and the log-det -H·W·Σ_c l_c, ``(N,)``.

        Raises:
            UninitializedModel: :meth:`initialize` has not been called and no weights were loaded.
        """
        self._check(x)
        scale = torch.exp(-self.log_scale).view(1, -1, 1, 1)
        return (x - self.shift.view(1, -1, 1, 1)) * scale, self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z·exp(l) + t for normalised images ``z``, ``(N, C, H, W)``, and the log-det H·W·Σ_c l_c, ``(N,)``."""
        self._check(z)
        scale = torch.exp(self.log_scale).view(1, -1, 1, 1)
        return z * scale + self.shift.view(1, -1, 1, 1), -self.log_det(z)

    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return an immutable float64 copy for scoring. Raises ``UninitializedModel`` before initialisation."""
        if not self.initialized:
            raise UninitializedModel("ActNorm is not initialised: initialise or load the flow before it is frozen")
        return super().freeze(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix diag(exp(-l)), ``(C, C)``, and the offset -t·exp(-l), ``(C,)``, of this affine map."""
        scale = torch.exp(-self.log_scale)
        return torch.diag(scale), -self.shift * scale

    def log_abs_det(self) -> Tensor:
        """Return -Σ_c l_c, the log-determinant in nats at a single pixel location, in float64. Cost: O(C)."""
        return -self.log_scale.double().sum()
