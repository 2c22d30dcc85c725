"""Interfaces of densities over pixels or features, and of the engines that run their flows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import Batch
from snf_runtime.parallelism import chunk_size
from snf_runtime.scoring.layout import DensityKind, Precision, Shape

if TYPE_CHECKING:
    from snf_runtime.scoring.evidence import Evidence

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
    """Engine that runs a flow on micro-batches: an image has the same bits whatever the others. Not thread-safe."""

    name: str
    precision: Precision  # of the 1x1 convolutions in coupling networks; "float32" for features
    micro_batch: int  # images of a batch; more take several batches
    threads: int


class Engine(TiledEngine, Protocol):
    """Backend that runs a trained flow from pixels to latents."""

    def forward(self, y: Array) -> Latents:
        """Run the flow on images after the pixel transform, float64 ``(N, C, H, W)``."""
        ...


CHUNKS_WITHOUT_PAUSES = 2
"""Groups of images that are computed as one where no other work waits, so that threads wait for each other less."""


class DensityPass(Protocol):
    """Results of one pass of a group of images: the terms of their log-likelihoods, and maps."""

    def __len__(self) -> int: ...

    def terms(self) -> NDArray[np.float64]:
        """Return log-prior and log-det of the pixels and each level, ``(N, L + 1, 2)`` in nats, which sum to log p."""
        ...

    def additive_map(self) -> NDArray[np.float64]:
        """Return each pixel's contribution to the log-likelihood, ``(N, H, W)`` in nats."""
        ...

    def compared_maps(self) -> NDArray[np.float64]:
        """Return the map in nats of each image or tile that heat maps compare with normal images."""
        ...

    def rows(self, chosen: slice) -> DensityPass: ...


class ImageDensity(ABC):
    """A frozen flow over pixels, over features, or both, run by an engine."""

    kind: DensityKind
    dimensions: int  # values of an image, or of a tile, whose joint density is computed
    constant_log_det: float  # sum of the log-dets that do not depend on the image, nats
    statistics: tuple[str, ...]  # names of whole-image, then of channel statistics; none for features alone
    grid: tuple[int, int] | None  # rows and columns of cells for local statistics
    has_map: bool
    tiled = False  # whether images have any size and are cut into tiles of ``image_shape``

    def __init__(self, engine: TiledEngine, weights_digest: str, image_shape: Shape, step_pixels: int) -> None:
        self.weights_digest = weights_digest  # SHA-256, in hexadecimal
        self.image_shape = image_shape  # channels, height and width of an image or a tile
        self.step_pixels = step_pixels  # of an image or tile that go into the backbone or the flow: its cost
        # Images or tiles of a group, between which other work can run; they fill a micro-batch in any case.
        self.chunk_size = max(engine.micro_batch, chunk_size(step_pixels, engine.threads))
        self.engine_name, self.precision, self.micro_batch = engine.name, engine.precision, engine.micro_batch

    @abstractmethod
    def passes(
        self, images: Batch, draws: int = 1, chunk_size: int | None = None
    ) -> Iterator[tuple[int, DensityPass | None]]:
        """Yield each group's first draw and result, None where no image is complete; an image's draws follow on."""

    @abstractmethod
    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        """Return the evidence of images from the pass of their first draw."""
