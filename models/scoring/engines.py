"""Engines run a frozen flow; this one is torch, on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.bijections.frozen import Inverse
from models.scoring.frozen import FrozenFlow

TILE = 4
"""Images at once. On a CPU the hidden activations of a coupling net stay in cache; larger batches are slower."""


@dataclass(frozen=True)
class Latents:
    """What an engine returns for a batch, all float64.

    ``scales``: the whitened latents ``(N, C, H, W)`` of the levels that have some, finest first. ``log_det`` and
    ``prior_log_det``: the data-dependent log-dets of each scale's steps and of its prior, ``(N, L)`` in nats.
    """

    scales: list[Tensor]
    log_det: Tensor
    prior_log_det: Tensor


class Engine(Protocol):
    """Maps images after the pixel transform to latents and back."""

    name: str
    precision: str

    def forward(self, y: Tensor) -> Latents:
        """Map ``y``, float64 ``(N, C, H, W)``, to its latents."""
        ...

    def inverse(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        """Map whitened latents to images before the inverse of the pixel transform, float64 ``(N, C, H, W)``."""
        ...


class TorchEngine:
    """Coupling networks in float32; all that is only a few channels wide in float64.

    The networks are nearly all of the cost. The rest, done in float32, would be nearly all of the rounding: each step
    would round the state that the next one amplifies. Works in tiles of one fixed size, a short one filled up: memory
    does not grow with N, and no kernel is chosen by the size of a batch, so a score is the same to the bit in any.
    """

    name = "torch"
    precision = "float32"

    def __init__(self, frozen: FrozenFlow, tile: int = TILE) -> None:
        self.frozen = frozen
        self.tile = tile

    @torch.inference_mode()
    def forward(self, y: Tensor) -> Latents:
        """Map ``y``, float64 ``(N, C, H, W)``, to its latents. Cost: that of the coupling networks, O(N)."""
        tiles = [self._forward_tile(tile) for tile in torch.split(self._filled(y), self.tile)]
        return Latents(
            [torch.cat(scale)[: len(y)] for scale in zip(*(tile.scales for tile in tiles), strict=True)],
            torch.cat([tile.log_det for tile in tiles])[: len(y)],
            torch.cat([tile.prior_log_det for tile in tiles])[: len(y)],
        )

    @torch.inference_mode()
    def inverse(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        """Map whitened latents to images before the inverse of the pixel transform."""
        tiles = zip(*(torch.split(self._filled(scale), self.tile) for scale in scales), strict=True)
        return torch.cat([self._inverse_tile(list(tile), inverse) for tile in tiles])[: len(scales[0])]

    def _filled(self, x: Tensor) -> Tensor:
        missing = -len(x) % self.tile
        return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x

    def _forward_tile(self, y: Tensor) -> Latents:
        scales, log_dets, prior_log_dets = [], [], []
        for level in self.frozen.levels:
            log_det = y.new_zeros(len(y))
            for step in level.steps:
                y, step_log_det = step.forward(y)
                if step_log_det is not None:
                    log_det = log_det + step_log_det
            prior_log_det = torch.zeros_like(log_det)
            if level.prior is not None:
                y, whitening_log_det = level.prior.forward(y)
                prior_log_det = prior_log_det if whitening_log_det is None else whitening_log_det
            if level.latent_shape is not None:
                y, latent = y[:, : level.kept], y[:, level.kept :]
                scales.append(latent)
            log_dets.append(log_det)
            prior_log_dets.append(prior_log_det)
        return Latents(scales, torch.stack(log_dets, 1), torch.stack(prior_log_dets, 1))

    def _inverse_tile(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        *remaining, y = scales
        for level in reversed(self.frozen.levels):
            if level.prior is not None:
                y = level.prior.inverse(torch.cat([y, remaining.pop()], dim=1), inverse)
            for step in reversed(level.steps):
                y = step.inverse(y, inverse)
        return y
