"""Interface of engines, which run frozen flows over pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.kinds import Precision
from snf_runtime.steps import step_size

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Latents:
    """Latents and log-determinants of images at all levels of a flow.

    Log-dets are log |det dz/dx| of the map from images x to latents z, without constant parts. All values are in
    float64.

    Attributes:
        scales: Whitened latents, ``(N, C, H, W)``, of each level that has latents, finest scale first.
        log_dets: Image-dependent part of the log-det of each level's steps, by location, ``(N, H, W)`` in nats.
        prior_log_dets: Log-det of the prior of each level, by location, ``(N, H, W)`` in nats.
        reconstruction_errors: ||R W x - x||² / ||x||² of the learned inverses of 1x1 convolutions of each level,
            ``(N, layers)``; there may be no such layers.
    """

    scales: list[Array]
    log_dets: list[Array]
    prior_log_dets: list[Array]
    reconstruction_errors: list[Array]


class TiledEngine(Protocol):
    """Engine that runs a flow on tiles of images: an image has the same bits in every batch. Not thread-safe."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> Precision:
        """The arithmetic of the 1x1 convolutions in coupling networks; "float32" for features."""
        ...

    @property
    def tile(self) -> int:
        """The images that are computed together; more take several runs."""
        ...

    @property
    def threads(self) -> int: ...


def images_at_once(engine: TiledEngine, pixels: int) -> int:
    """Return the images of ``pixels`` pixels that take a step's time; they fill a tile in any case."""
    return max(engine.tile, step_size(pixels, engine.threads))


class Engine(TiledEngine, Protocol):
    """Backend that runs a trained flow from pixels to latents."""

    def forward(self, y: Array) -> Latents:
        """Run the flow on images after the pixel transform, float64 ``(N, C, H, W)``."""
        ...
