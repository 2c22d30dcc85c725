"""Activation normalisation: a scale and a shift for each channel, initialised from data."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.base import ChannelAffine, Shape, check_images
from snf_models.bijections.frozen import FrozenAffine
from snf_models.errors import UninitializedModel


class ActNorm(ChannelAffine):
    """Activation normalisation: a learned shift and scale for each channel.

    The layer is z = (x - t)·exp(-l) with shift t and log-scale l.

    The log-det is -H·W·Σ_c l_c (Kingma & Dhariwal 2018, 3.1). :meth:`initialize` sets t and l from a batch before the
    first use. The flag ``initialized`` is a buffer and saved with the weights, so a loaded layer is not initialised
    again.

    Cost: O(N·C·H·W) in both directions, O(C) for the log-det.

    Args:
        channels: The number of channels C.
    """

    cheap_inverse: ClassVar[bool] = True

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set shift and scale so that each channel of a batch gets mean 0 and deviation 1.

        The batch ``x`` is ``(N, C, H, W)``.

        A channel that is constant in the batch (deviation of at most 1e-6) keeps the scale 1.
        """
        check_images(x, self.channels)
        std, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
        # The scale of a channel that is constant in this batch is unknown: leave it at 1.
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        self.shift.copy_(mean)
        self.log_scale.copy_(std.log())
        self.initialized.fill_(True)

    def _check(self, x: Tensor) -> None:
        check_images(x, self.channels)
        # The flag is read until it is set: every further read would make the program wait for a GPU.
        self._ready = self._ready or bool(self.initialized)
        if not self._ready:
            raise UninitializedModel(
                "ActNorm is not initialised: call initialize with a batch, or load trained weights"
            )

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*arguments)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised images, and the log-determinant of the layer's Jacobian for each image.

        z = (x - t)·exp(-l) with shift t and log-scale l of each channel. The log-determinant log|det dz/dx| is in nats,
        ``(N,)``.

        Raises:
            UninitializedModel: :meth:`initialize` has not been called and no weights were loaded.
        """
        self._check(x)
        scale = torch.exp(-self.log_scale).view(1, -1, 1, 1)
        return (x - self.shift.view(1, -1, 1, 1)) * scale, self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs whose normalisation gives ``z``, and the log-determinant of this inverse map.

        x = z·exp(l) + t with shift t and log-scale l of each channel. The log-determinant log|det dx/dz| is in nats,
        ``(N,)``.
        """
        self._check(z)
        scale = torch.exp(self.log_scale).view(1, -1, 1, 1)
        return z * scale + self.shift.view(1, -1, 1, 1), -self.log_det(z)

    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return an immutable float64 copy of this layer for scoring.

        Raises ``UninitializedModel`` if the scales were never set.
        """
        if not self.initialized:
            raise UninitializedModel("ActNorm is not initialised: initialise or load the flow before it is frozen")
        return super().freeze(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the diagonal matrix and the offset by which this layer maps the channels of each pixel.

        z = A x + b for the matrix A, ``(C, C)``, and the offset b, ``(C,)``.
        """
        scale = torch.exp(-self.log_scale)
        return torch.diag(scale), -self.shift * scale

    def log_abs_det(self) -> Tensor:
        """Return the log-determinant of the layer's map of a single pixel's channels.

        Every pixel of every image adds this number to the log-determinant of the layer's Jacobian.

        It is minus the sum of the log-scales, in nats, a float64 scalar.
        """
        return -self.log_scale.double().sum()
