"""Patch-causal block: all patches before a patch determine scale and shift of all of its channels."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from snf_models.bijections.base import Bijection, Shape, call, sum_samples
from snf_models.bijections.coupling import LOG_SCALE_BOUND, CouplingNet, CouplingProducts
from snf_models.bijections.frozen import FrozenMap

BEFORE = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
"""The taps of a 3x3 kernel that see patches before its own in reading order."""
UP_TO = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


class CausalNet(CouplingNet):
    """Network of a coupling whose 3x3 kernels see earlier patches alone: the first one strictly earlier ones."""

    def _convolutions(self, x: Tensor, _context: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            hidden = F.conv2d(x, self.first.weight * BEFORE, self.first.bias, padding=1)
            hidden = F.relu(hidden if self.place is None else hidden + self.place)
            hidden = F.relu(self.middle(hidden))
            return F.conv2d(hidden, self.last.weight * UP_TO, self.last.bias, padding=1)

    def _products(self, x: Tensor) -> Tensor:
        output: Tensor = call(
            CouplingProducts,
            x,
            self.autocast,
            self.first.weight * BEFORE,
            self.first.bias,
            self.place,
            self.middle.weight,
            self.middle.bias,
            self.last.weight * UP_TO,
            self.last.bias,
        )
        return output


class PatchCausal(Bijection):
    """Affine autoregressive map over patches (Papamakarios et al. 2017): z_p = s(x_<p)·x_p + t(x_<p).

    A patch is the channels of one pixel after the squeezes. The log-det is Σ log s. The inverse takes one pass of the
    network for each patch.

    Args:
        channels: Channels of the images.
        width: Channels of the hidden layers of the network.
        size: Height and width of the images.
        place: Whether the network depends on the place.
        swapped: Whether patches are ordered from the last to the first.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int], *, place: bool, swapped: bool) -> None:
        super().__init__()
        self.net = CausalNet(channels, 2 * channels, width, size if place else None)
        self.swapped = swapped

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx| in nats, ``(N,)``."""
        z, log_scale = self._map(x)
        return z, sum_samples(log_scale)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x, patch by patch in their order, and log|det dx/dz| in nats, ``(N,)``."""
        z = self._ordered(z)
        x = torch.zeros_like(z)
        for row in range(z.shape[2]):
            for column in range(z.shape[3]):
                log_scale, shift = self._scale_and_shift(x)
                x[:, :, row, column] = ((z - shift) * torch.exp(-log_scale))[:, :, row, column]
        return self._ordered(x), -sum_samples(self._scale_and_shift(x)[0])

    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable copy for scoring, whose network computes in float32 and all else in float64.

        It draws no samples: previews would take most of the time of a trial.
        """
        module = copy.deepcopy(self).float().eval()
        module.net.autocast = None

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_scale = module._map(x)
            return z, log_scale.sum(1)

        def inverse(z: Tensor) -> Tensor:
            raise NotImplementedError("a trial of patch-causal blocks draws no samples")

        return FrozenMap(forward, inverse)

    def _map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._ordered(x)
        log_scale, shift = self._scale_and_shift(x)
        return self._ordered(x * torch.exp(log_scale) + shift), self._ordered(log_scale)

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.net.first.weight
        logits, shift = self.net(x.to(weight.dtype)).to(x.dtype).chunk(2, dim=1)
        return LOG_SCALE_BOUND * torch.tanh(logits / LOG_SCALE_BOUND), shift

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(2, 3) if self.swapped else x
