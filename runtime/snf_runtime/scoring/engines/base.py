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
    """Interface of engines that run flows on batches of a fixed number of images, called tiles.

    The flows are over the pixels or the features of images.

    The result for an image is the same to the last bit alone, in every batch and at every position in it. An engine is
    not thread-safe.
    """

    @property
    def name(self) -> str:
        """The name of the library that the engine computes with, "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> Precision:
        """The number format of the 1x1 convolutions in coupling networks, "float32" or "bfloat16".

        An engine that runs flows over features has "float32".
        """
        ...

    @property
    def tile(self) -> int:
        """The number of images in one batch, which are computed together; more images take several batches."""
        ...

    @property
    def threads(self) -> int:
        """The number of CPU threads that the engine computes with."""
        ...


def images_at_once(engine: TiledEngine, pixels: int) -> int:
    """Return how many images an engine should compute in one step; other work may run between steps.

    They take the time of a step, and fill a tile in any case.

    Args:
        engine: The engine.
        pixels: Pixels of an image that it processes, H·W.
    """
    return max(engine.tile, step_size(pixels, engine.threads))


class Engine(TiledEngine, Protocol):
    """Interface of a backend (PyTorch or OpenVINO) that runs a trained flow from pixels to latents."""

    def forward(self, y: Array) -> Latents:
        """Run the flow on images after the pixel transform, and return their latents and log-determinants.

        ``y`` holds N images after the pixel transform, float64 ``(N, C, H, W)``.
        """
        ...
