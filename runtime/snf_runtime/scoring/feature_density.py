"""Probability density of image features: engine interface, results and scoring of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import Batch, stacked
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.images.tiles import TilePlan, size_of, tile_plan
from snf_runtime.kinds import DensityKind, Precision, Shape
from snf_runtime.scoring.density import DensityPass
from snf_runtime.scoring.engines.base import TiledEngine, images_at_once
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.layout import FeatureLayout
from snf_runtime.scoring.white_level import white_levels

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


class FeatureEngine(TiledEngine, Protocol):
    """Interface of an engine that runs a backbone network and the flows over its features."""

    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return the squared norms of feature latents for each image, under each separate fit of the flow.

        Fit 0 is to all training images; each other fit leaves a part of them out.

        They are ||z||² of the latents z, at each place and of the pooled features.

        Args:
            images: Pixels, uint8 ``(N, C, H, W)``.

        Returns:
            Squares at places, float64 ``(N, fits, rows, columns)``, and of each
            group of pooled features, ``(N, fits, groups)``.
        """
        ...


@dataclass(frozen=True)
class FeaturePass:
    """Result of scoring a group of images with normalizing flows over image features.

    It holds negative log-densities, from which log-likelihoods and evidence are computed.

    Attributes:
        flows: The layout of the flows over the features, or the flows themselves.
        features: ||z||² / 2 of the latents: negative log-densities up to constants, in float64.
        image: Height and width of the images or, where they have several tiles, of a tile.
        draws: The number of draws of each image, which are all equal.
    """

    flows: FeatureLayout
    features: FeatureEvidence
    image: tuple[int, int]
    draws: int = 1

    def __len__(self) -> int:
        return len(self.features) * self.draws

    def terms(self) -> Array:
        """Return each image's log-prior and log-determinant, for the pixels (scale 0) and the features (scale 1).

        The shape is ``(N, 2, 2)``, in nats. Both terms are 0 for scale 0, the pixels.

        Those of an image are sums over its tiles.
        """
        terms = np.zeros((len(self.features), 2, 2))
        dimensions = math.prod(self.flows.feature_shape)
        priors = -self.features.places[:, 0].sum((1, 2)) - 0.5 * dimensions * math.log(2 * math.pi)
        if self.features.plans is not None:
            # Exact sums, which do not depend on how they are grouped.
            priors = np.array([math.fsum(priors[start:stop]) for start, stop in self.features.tiles])
        terms[:, 1, 0] = priors
        counts = [stop - start for start, stop in self.features.tiles]
        terms[:, 1, 1] = self.flows.constant_log_det * np.array(counts, dtype=np.float64)
        return terms.repeat(self.draws, 0)

    def compared_maps(self) -> Array:
        """Return the log-likelihood maps, in nats, that heat maps compare with averages over normal images.

        They are the additive maps of images or, with tiles, the log-densities at the places of each tile up to
        constants.
        """
        if self.features.plans is None:
            return self.additive_map()
        maps: Array = -self.features.places[:, 0].astype(np.float64, copy=False)
        return maps

    def additive_map(self) -> Array:
        """Return maps of what each pixel contributes to the log-likelihood of the features of its image.

        The shape is ``(N, H, W)``, in nats. The contributions sum to the log-likelihood.

        The contribution of a place is divided among the pixels that are nearest to it. Log-det and constants are
        divided evenly among all pixels. Images of several tiles are not supported.
        """
        assert self.features.plans is None
        (height, width), (rows, columns) = self.image, self.features.places.shape[2:]
        nearest = np.arange(height) * rows // height, np.arange(width) * columns // width
        maps = spread(-self.features.places[:, 0].astype(np.float64, copy=False), *nearest, self.constants)
        return maps.repeat(self.draws, 0)

    @property
    def constants(self) -> tuple[float, float]:
        """The log-determinant and the Gaussian normalising constant, in nats: both are the same for every image.

        They are the log-det, and -D/2·ln 2π for D feature values.
        """
        return self.flows.constant_log_det, -0.5 * math.prod(self.flows.feature_shape) * math.log(2 * math.pi)

    def rows(self, chosen: slice) -> FeaturePass:
        """Return a new ``FeaturePass`` with only the results of some rows, given as a slice.

        A row is one draw of an image.

        Each image has ``draws`` rows, one after the other.
        """
        numbers = np.arange(len(self))[chosen] // self.draws
        return FeaturePass(self.flows, self.features[numbers], self.image)

    def evidence(self) -> FeatureEvidence:
        """Return the features' negative log-densities, from which anomaly verdicts are computed.

        They are given up to constants, in nats.

        Images may have thousands of tiles, whose evidence is kept in float32.
        """
        if self.features.plans is None:
            return self.features
        places, pooled = (part.astype(np.float32) for part in (self.features.places, self.features.pooled))
        return FeatureEvidence(places, pooled, self.features.plans)


def spread(places: Array, row: Indices, column: Indices, even: Sequence[float]) -> Array:
    """Divide the value at each place (cell of the feature grid) evenly among the pixels of that place.

    The results are maps of pixels, ``(N, H, W)``.

    A small image has places without a pixel of their own. Their values are divided evenly among all pixels.

    Args:
        places: Values at places, ``(N, rows, columns)``.
        row: The row of places of each row of pixels, ``(H,)``.
        column: The column of places of each column of pixels, ``(W,)``.
        even: Numbers that are divided evenly among all pixels, too.
    """
    rows, columns = places.shape[1:]
    by_row, by_column = np.bincount(row, minlength=rows), np.bincount(column, minlength=columns)
    maps = (places / np.maximum(by_row[:, None] * by_column, 1))[:, row][:, :, column]
    rest = places.sum((1, 2)) - maps.sum((1, 2))
    for part in even:
        rest = rest + part
    result: Array = maps + (rest / (len(row) * len(column)))[:, None, None]
    return result


class FeatureDensity:
    """Probability density of image features, computed by a frozen backbone network and a frozen flow.

    It is a density over the space of the features at places.

    There is no dequantisation noise, so every draw of an image gives the same log-likelihood. The log-likelihood of an
    image of several tiles is the sum of those of its tiles.

    Args:
        engine: The engine that runs the backbone and the flows.
        flows: The layout of the flows over the features, or the flows themselves.
        weights_digest: SHA-256 of the weights of the flows, in hexadecimal.
        image_shape: Channels, height and width of the images, or of their tiles.
        input_size: Height and width to which images or tiles are enlarged for the backbone.
        tiled: Whether images have any size, and are cut into tiles.
    """

    kind: DensityKind = "feature_density"
    statistics: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    has_map = True

    def __init__(
        self,
        engine: FeatureEngine,
        flows: FeatureLayout,
        weights_digest: str,
        image_shape: Shape,
        input_size: tuple[int, int],
        tiled: bool = False,
    ) -> None:
        self.engine = engine
        self.flows = flows
        self.weights_digest = weights_digest
        self.image_shape = image_shape
        self.tiled = tiled
        self.dimensions = math.prod(flows.feature_shape)
        self.step_pixels = math.prod(input_size)
        self.at_once = images_at_once(engine, self.step_pixels)
        self.engine_name = engine.name
        self.precision: Precision = engine.precision
        self.tile = engine.tile
        self.constant_log_det = flows.constant_log_det

    def passes(
        self, images: Batch, draws: int = 1, at_once: int | None = None
    ) -> Iterator[tuple[int, FeaturePass | None]]:
        """Run images or tiles through the model in groups that fit in memory, and yield each group's results.

        Args:
            images: Pixels, uint8 ``(N, C, H, W)`` or, where there are tiles, ``(C, H, W)`` each.
            draws: The number of draws; they are equal, and those of an image follow each other.
            at_once: The largest number of draws, or of tiles, in a group; None for that of this density.

        Yields:
            The number of the first draw of a group, and the result of the group; None instead of a result after a
            group of tiles that completes no image.
        """
        at_once = at_once or self.at_once
        if self.tiled:
            yield from self._tiled_passes(images, draws, at_once)
            return
        size = max(1, at_once // draws)
        for start in range(0, len(images), size):
            yield start * draws, replace(self.measure(stacked(images[start : start + size])), draws=draws)

    def _tiled_passes(self, images: Batch, draws: int, at_once: int) -> Iterator[tuple[int, FeaturePass | None]]:
        plans = [self.plan(image) for image in images]
        tiles = (plan.cut(image, tile) for image, plan in zip(images, plans, strict=True) for tile in range(len(plan)))
        # Groups go on from one image to the next: many small images are computed together.
        measured: list[FeatureEvidence] = []
        first = waiting = 0
        while group := list(islice(tiles, at_once)):
            measured.append(self._measured(np.stack(group)))
            waiting += len(group)
            last, complete = first, 0
            while last < len(plans) and complete + len(plans[last]) <= waiting:
                complete, last = complete + len(plans[last]), last + 1
            if last == first:
                yield first * draws, None
                continue
            together = FeatureEvidence.join(measured)
            done = replace(together[:complete], plans=tuple(plans[first:last]))
            yield first * draws, FeaturePass(self.flows, done, self.image_shape[1:], draws)
            measured, waiting, first = [together[complete:]], waiting - complete, last

    def plan(self, image: Pixels) -> TilePlan:
        """Return the ``TilePlan`` that divides an image, uint8 ``(C, H, W)``, into tiles."""
        side = self.image_shape[1]
        return tile_plan(*size_of(image), side, side // self.flows.feature_shape[1])

    def measure(self, images: Pixels) -> FeaturePass:
        """Return a ``FeaturePass`` with the negative log-densities of the features of images.

        The images or tiles are uint8 ``(N, C, H, W)``, and are computed as one group.
        """
        return FeaturePass(self.flows, self._measured(images), self.image_shape[1:])

    def _measured(self, images: Pixels) -> FeatureEvidence:
        squares, pooled = self.engine.squares(images)
        return FeatureEvidence(0.5 * squares, 0.5 * pooled)

    def evidence(self, images: Batch, found: DensityPass) -> Evidence:
        """Return the evidence on a batch of images: statistics from which anomaly verdicts are computed.

        ``found`` is the :class:`FeaturePass` of the images.
        """
        assert isinstance(found, FeaturePass)
        nothing = np.zeros((len(found), 0))
        return Evidence(nothing, nothing, features=found.evidence(), white_levels=white_levels(images))
