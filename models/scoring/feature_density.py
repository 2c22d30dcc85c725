"""Density of the features of images: the interface of its engines, its results, and the scoring of images by it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.artifacts.manifest import Precision
from models.bijections.base import Shape
from models.features.flows import FrozenFeatureFlows
from models.flows.architecture import DensityKind
from models.images.preprocessing import Pixels
from models.scoring.density import CHUNK, CHUNK_PIXELS, DensityPass
from models.scoring.evidence import Evidence, FeatureEvidence
from models.scoring.white_level import white_levels

Array = NDArray[np.float64]


class FeatureEngine(Protocol):
    """Interface of an engine that runs a backbone and the flows over its features.

    The result for an image is the same to the last bit alone, in every batch and at every position in it. An engine is
    not thread-safe.
    """

    @property
    def name(self) -> str:
        """The name of the engine, such as "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> Precision:
        """The arithmetic of the backbone, "float32"."""
        ...

    @property
    def tile(self) -> int:
        """The number of images that the engine computes at once."""
        ...

    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return ||z||² of the latents z of images under every fit, at each place and of the pooled features.

        Args:
            images: Pixels, uint8 ``(N, C, H, W)``.

        Returns:
            Squares at places, float64 ``(N, fits, rows, columns)``, and of each
            group of pooled features, ``(N, fits, groups)``.
        """
        ...


@dataclass(frozen=True)
class FeaturePass:
    """Squared latents of the features of N images, from which their log-likelihoods and evidence are computed.

    Attributes:
        flows: The frozen flows over the features.
        squares: ||z||² of the latents at each place, float64 ``(N, fits, rows, columns)``.
        pooled: ||z||² of the latents of each group of pooled features, float64 ``(N, fits, groups)``.
        image: Height and width of the images.
    """

    flows: FrozenFeatureFlows
    squares: Array
    pooled: Array
    image: tuple[int, int]

    def __len__(self) -> int:
        return len(self.squares)

    def terms(self) -> Tensor:
        """Return the log-prior and log-det of each scale, ``(N, 2, 2)`` in nats; both are 0 for scale 0, the pixels."""
        terms = torch.zeros(len(self), 2, 2, dtype=torch.float64)
        dimensions = math.prod(self.flows.feature_shape)
        terms[:, 1, 0] = torch.from_numpy(-0.5 * self.squares[:, 0].sum((1, 2)))
        terms[:, 1, 0] -= 0.5 * dimensions * math.log(2 * math.pi)
        terms[:, 1, 1] = self.flows.constant_log_det
        return terms

    def additive_map(self) -> Tensor:
        """Return the contribution of each pixel to the log-likelihood, ``(N, H, W)`` in nats; they sum to the score.

        The contribution of a place is divided among the pixels that are nearest to it. Log-det and constants are
        divided evenly among all pixels.
        """
        height, width = self.image
        rows, columns = self.squares.shape[2:]
        row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
        by_row, by_column = np.bincount(row, minlength=rows), np.bincount(column, minlength=columns)
        share = -0.5 * self.squares[:, 0] / np.maximum(by_row[:, None] * by_column, 1)
        maps = share[:, row][:, :, column]
        # A small image has places without a pixel of their own; what they contribute is distributed evenly, too.
        total = -0.5 * self.squares[:, 0].sum((1, 2)) - maps.sum((1, 2))
        even = total + self.flows.constant_log_det
        even -= 0.5 * math.prod(self.flows.feature_shape) * math.log(2 * math.pi)
        return torch.from_numpy(maps + (even / (height * width))[:, None, None])

    def rows(self, chosen: slice) -> FeaturePass:
        """Return the result for a slice of the images."""
        return FeaturePass(self.flows, self.squares[chosen], self.pooled[chosen], self.image)

    def evidence(self) -> FeatureEvidence:
        """Return the evidence for anomaly verdicts: ||z||² / 2, the negative log-densities up to constants, in nats."""
        return FeatureEvidence(0.5 * self.squares, 0.5 * self.pooled)


class FeatureDensity:
    """Density of images over the space of their features at places, by a frozen backbone and a frozen flow.

    There is no dequantisation noise, so every draw of an image gives the same log-likelihood.

    Args:
        engine: The engine that runs the backbone and the flows.
        flows: The frozen flows over the features.
        weights_digest: SHA-256 of the weights of the flows, in hexadecimal.
        image_shape: Channels, height and width of the images.
        input_size: Height and width to which images are enlarged for the backbone.
    """

    kind: DensityKind = "feature_density"
    statistics: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    has_map = True

    def __init__(
        self,
        engine: FeatureEngine,
        flows: FrozenFeatureFlows,
        weights_digest: str,
        image_shape: Shape,
        input_size: tuple[int, int],
    ) -> None:
        self.engine = engine
        self.flows = flows
        self.weights_digest = weights_digest
        self.image_shape = image_shape
        self.dimensions = math.prod(flows.feature_shape)
        self.step_pixels = math.prod(input_size)
        self.engine_name = engine.name
        self.precision: Precision = engine.precision
        self.tile = engine.tile
        self.constant_log_det = flows.constant_log_det

    def passes(
        self, images: NDArray[np.uint8], draws: int = 1, at_once: int = CHUNK
    ) -> Iterator[tuple[int, FeaturePass]]:
        """Score images in groups, so that memory does not grow with their number.

        Args:
            images: Pixels, uint8 ``(N, C, H, W)``.
            draws: The number of draws; they are equal, and those of an image follow each other.
            at_once: The largest number of draws in a group.

        Yields:
            The number of the first draw of a group, and the result of the group.
        """
        size = max(1, min(at_once // draws, CHUNK_PIXELS // self.step_pixels))
        for start in range(0, len(images), size):
            found = self.measure(images[start : start + size])
            if draws > 1:
                found = replace(found, squares=found.squares.repeat(draws, 0), pooled=found.pooled.repeat(draws, 0))
            yield start * draws, found

    def measure(self, images: NDArray[np.uint8]) -> FeaturePass:
        """Return the squared latents of images, uint8 ``(N, C, H, W)``, computed as one group."""
        _, height, width = self.image_shape
        return FeaturePass(self.flows, *self.engine.squares(images), (height, width))

    def evidence(self, images: NDArray[np.uint8], found: DensityPass) -> Evidence:
        """Return the evidence for anomaly verdicts on images, from their :class:`FeaturePass`."""
        assert isinstance(found, FeaturePass)
        nothing = np.zeros((len(found), 0))
        return Evidence(nothing, nothing, features=found.evidence(), white_levels=white_levels(images))
