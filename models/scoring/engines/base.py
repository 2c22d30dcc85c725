"""What every engine does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.artifacts.manifest import Precision
from models.bijections.frozen import Inverse


@dataclass(frozen=True)
class Latents:
    """What an engine returns for a batch, all float64.

    ``scales``: the whitened latents ``(N, C, H, W)`` of the levels that have some, finest first. ``log_dets`` and
    ``prior_log_dets``: the data-dependent log-dets of each level's steps and of its prior, where in the image they
    belong, ``(N, H, W)`` a level, in nats. ``reconstruction_errors``: ||R W x - x||² / ||x||² of the learned inverses
    of 1x1 convolutions, ``(N, layers)`` a level, which may have none.
    """

    scales: list[Tensor]
    log_dets: list[Tensor]
    prior_log_dets: list[Tensor]
    reconstruction_errors: list[Tensor]


class Engine(Protocol):
    """Maps images after the pixel transform to latents and back. One thread owns it.

    An image's result is the same to the bit alone, in any batch and at any place in it.
    """

    @property
    def name(self) -> str:
        """The library that computes."""
        ...

    @property
    def precision(self) -> Precision:
        """The arithmetic of the middle convolutions of the coupling networks; all else is float32 or better."""
        ...

    @property
    def tile(self) -> int:
        """Images that are computed at once."""
        ...

    def forward(self, y: Tensor) -> Latents:
        """Map ``y``, float64 ``(N, C, H, W)``, to its latents."""
        ...

    def inverse(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        """Map whitened latents to images before the inverse of the pixel transform, float64 ``(N, C, H, W)``."""
        ...
