"""Interface of the densities of a model: what scoring, calibration and heat maps ask of pixels and of features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import Batch
from snf_runtime.kinds import DensityKind, Precision, Shape
from snf_runtime.scoring.evidence import Evidence

CHUNK, CHUNK_PIXELS = 64, 64 * 128 * 128
"""Largest number of images in memory at once, and of their pixels."""


class DensityPass(Protocol):
    """Interface of the result for a group of images: the terms of their log-likelihoods, and maps over the image."""

    def __len__(self) -> int: ...

    def terms(self) -> NDArray[np.float64]:
        """Return the log-prior and log-det of each scale, ``(N, L + 1, 2)`` in nats; they sum to the score."""
        ...

    def additive_map(self) -> NDArray[np.float64]:
        """Return the contribution of each pixel to the log-likelihood, ``(N, H, W)`` in nats; they sum to the score."""
        ...

    def compared_maps(self) -> NDArray[np.float64]:
        """Return a map of log-likelihoods in nats for each image or tile. Heat maps are computed from these maps."""
        ...

    def rows(self, chosen: slice) -> DensityPass:
        """Return the result for a slice of the images."""
        ...


class ImageDensity(Protocol):
    """Interface of a density of images: a frozen flow over pixels, over features, or both, run by an engine."""

    @property
    def kind(self) -> DensityKind:
        """What the log-likelihood is a density of: "density" for pixels, "feature_density" for features."""
        ...

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of the images, or of their tiles."""
        ...

    @property
    def dimensions(self) -> int:
        """The number of pixel or feature values of an image, or a tile, over which its log-likelihood is a density."""
        ...

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights, in hexadecimal."""
        ...

    @property
    def constant_log_det(self) -> float:
        """Sum of the log-dets that are the same for all images, in nats."""
        ...

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of the statistics of the whole image and of channels; none for a density of features alone."""
        ...

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the cells whose log-density is evidence; None where there is none."""
        ...

    @property
    def has_map(self) -> bool:
        """Whether the log-likelihood is a sum of contributions of places in the image."""
        ...

    @property
    def engine_name(self) -> str:
        """The name of the engine, such as "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> Precision:
        """The arithmetic of the engine."""
        ...

    @property
    def step_pixels(self) -> int:
        """Input pixels per image of the network or flow. They determine how many images a step computes."""
        ...

    @property
    def tile(self) -> int:
        """The number of images that the engine computes at once."""
        ...

    @property
    def tiled(self) -> bool:
        """Whether images have any size and are cut into tiles, of which ``image_shape`` is the shape."""
        ...

    def passes(self, images: Batch, draws: int = 1, at_once: int = CHUNK) -> Iterator[tuple[int, DensityPass | None]]:
        """Score images in groups, so that memory does not grow with their number.

        Args:
            images: Pixels, uint8 ``(N, C, H, W)``, or ``(C, H, W)`` each for a density of tiles.
            draws: The number of dequantisation draws; the draws of an image follow each other.
            at_once: The largest number of draws, or of tiles, in a group.

        Yields:
            The number of the first draw of a group, and the result of the group; None where no image is complete yet.
        """
        ...

    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        """Return the evidence for anomaly verdicts on images, from the result of their first draws."""
        ...
