"""Engines run a frozen flow; this one is torch, on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.bijections.base import sum_samples
from models.bijections.coupling import LOG_SCALE_BOUND
from models.scoring.frozen import FrozenAffine, FrozenCoupling, FrozenFlow

TILE = 4
"""Images at once. On a CPU the hidden activations of a coupling net stay in cache; larger batches are slower."""

Inverse = Literal["exact", "learned"]


@dataclass(frozen=True)
class Latents:
    """What an engine returns for a batch, all float64.

    ``scales``: the whitened latents ``(N, C, H, W)``, finest first. ``log_det`` and ``prior_log_det``: the
    data-dependent log-dets of each scale's steps and of its prior, ``(N, L)`` in nats.
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
            y = F.pixel_unshuffle(y, 2)
            log_det = y.new_zeros(len(y))
            for step in level.steps:
                if isinstance(step, FrozenAffine):
                    y = _affine(step.forward, y)
                else:
                    y, step_log_det = _couple(step, y)
                    log_det = log_det + step_log_det
            prior_log_det = torch.zeros_like(log_det)
            latent = y
            if level.prior is not None:
                whitened, prior_log_det = _couple(level.prior, y)
                y, latent = whitened[:, : level.prior.kept], whitened[:, level.prior.kept :]
            scales.append(latent)
            log_dets.append(log_det)
            prior_log_dets.append(prior_log_det)
        return Latents(scales, torch.stack(log_dets, 1), torch.stack(prior_log_dets, 1))

    def _inverse_tile(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        y = scales[-1]
        for level, latent in zip(reversed(self.frozen.levels), reversed(scales), strict=True):
            if level.prior is not None:
                y = _uncouple(level.prior, torch.cat([y, latent], dim=1))
            for step in reversed(level.steps):
                if isinstance(step, FrozenCoupling):
                    y = _uncouple(step, y)
                elif inverse == "learned" and step.learned is not None:
                    y = _affine(step.learned, y)
                else:
                    y = _affine(step.inverse, y)
            y = F.pixel_shuffle(y, 2)
        return y


def _affine(parts: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    matrix, offset = parts
    return (torch.matmul(matrix, x.flatten(2)) + offset.view(1, -1, 1)).view_as(x)


def _scale_and_shift(coupling: FrozenCoupling, kept: Tensor) -> tuple[Tensor, Tensor]:
    hidden = kept.float().contiguous(memory_format=torch.channels_last)
    hidden = F.relu_(F.conv2d(hidden, *coupling.first, padding=1))
    hidden = F.relu_(F.conv2d(hidden, *coupling.middle))
    logits, shift = F.conv2d(hidden, *coupling.last, padding=1).double().chunk(2, dim=1)
    return LOG_SCALE_BOUND * torch.tanh(logits / LOG_SCALE_BOUND), shift


def _couple(coupling: FrozenCoupling, x: Tensor) -> tuple[Tensor, Tensor]:
    kept, moved = x[:, : coupling.kept], x[:, coupling.kept :]
    log_scale, shift = _scale_and_shift(coupling, kept)
    return torch.cat([kept, moved * log_scale.exp() + shift], dim=1), sum_samples(log_scale)


def _uncouple(coupling: FrozenCoupling, z: Tensor) -> Tensor:
    kept, moved = z[:, : coupling.kept], z[:, coupling.kept :]
    log_scale, shift = _scale_and_shift(coupling, kept)
    return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)
