"""Density of image features, alone or as evidence beside a density of pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import Batch, TilePlan, size_of, stacked, tile_plan
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.density import DensityPass, ImageDensity, TiledEngine
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence, white_levels
from snf_runtime.scoring.layout import DensityKind, FeatureLayout, Shape
from snf_runtime.scoring.pixel_density import PixelDensity

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


class FeatureEngine(TiledEngine, Protocol):
    """Interface of an engine that runs a backbone network and the flows over its features."""

    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return ||z||² at places ``(N, fits, rows, columns)`` and of pooled features ``(N, fits, groups)``."""
        ...


@dataclass(frozen=True)
class FeaturePass:
    """Negative log-densities of a group of images under flows over features."""

    flows: FeatureLayout
    features: FeatureEvidence  # ||z||² / 2 in float64
    image: tuple[int, int]  # height and width of an image, or of a tile
    draws: int = 1  # of each image, all equal

    def __len__(self) -> int:
        return len(self.features) * self.draws

    def terms(self) -> Array:
        """Return log-prior and log-det of the features, scale 1, summed over tiles; 0 of the pixels, scale 0."""
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
        """Return the additive maps or, with tiles, the log-densities at places of each tile up to constants."""
        if self.features.plans is None:
            return self.additive_map()
        return -self.features.places[:, 0].astype(np.float64, copy=False)

    def additive_map(self) -> Array:
        """Return each pixel's contribution in nats: a place's is divided among its nearest pixels. Not for tiles."""
        assert self.features.plans is None
        (height, width), (rows, columns) = self.image, self.features.places.shape[2:]
        nearest = np.arange(height) * rows // height, np.arange(width) * columns // width
        maps = spread(-self.features.places[:, 0].astype(np.float64, copy=False), *nearest, self.constants)
        return maps.repeat(self.draws, 0)

    @property
    def constants(self) -> tuple[float, float]:
        """Log-det and -D/2·ln 2π of D features, in nats."""
        return self.flows.constant_log_det, -0.5 * math.prod(self.flows.feature_shape) * math.log(2 * math.pi)

    def rows(self, chosen: slice) -> FeaturePass:
        """Return the results of some rows; each image has ``draws`` of them in turn."""
        numbers = np.arange(len(self))[chosen] // self.draws
        return FeaturePass(self.flows, self.features[numbers], self.image)

    def evidence(self) -> FeatureEvidence:
        """Return negative log-densities up to constants, of thousands of tiles in float32."""
        if self.features.plans is None:
            return self.features
        places, pooled = (part.astype(np.float32) for part in (self.features.places, self.features.pooled))
        return FeatureEvidence(places, pooled, self.features.plans)


def spread(places: Array, row: Indices, column: Indices, even: Sequence[float]) -> Array:
    """Divide values of places among their nearest pixels; those of places without pixels, and ``even``, among all."""
    rows, columns = places.shape[1:]
    by_row, by_column = np.bincount(row, minlength=rows), np.bincount(column, minlength=columns)
    maps = (places / np.maximum(by_row[:, None] * by_column, 1))[:, row][:, :, column]
    rest = places.sum((1, 2)) - maps.sum((1, 2))
    for part in even:
        rest = rest + part
    result: Array = maps + (rest / (len(row) * len(column)))[:, None, None]
    return result


class FeatureDensity(ImageDensity):
    """Density of features at places, without noise: all draws are equal. Tiles of an image add up."""

    kind: DensityKind = "feature_density"
    statistics = ()
    grid = None
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
        super().__init__(engine, weights_digest, image_shape, math.prod(input_size))
        self.engine = engine
        self.flows = flows
        self.tiled = tiled
        self.dimensions = math.prod(flows.feature_shape)
        self.constant_log_det = flows.constant_log_det

    def passes(
        self, images: Batch, draws: int = 1, chunk_size: int | None = None
    ) -> Iterator[tuple[int, FeaturePass | None]]:
        """Run draws or tiles in groups; yield the first draw and result of each, None where no image is complete."""
        chunk_size = chunk_size or self.chunk_size
        if self.tiled:
            yield from self._tiled_passes(images, draws, chunk_size)
            return
        size = max(1, chunk_size // draws)
        for start in range(0, len(images), size):
            yield start * draws, replace(self.measure(stacked(images[start : start + size])), draws=draws)

    def _tiled_passes(self, images: Batch, draws: int, chunk_size: int) -> Iterator[tuple[int, FeaturePass | None]]:
        plans = [self.plan(image) for image in images]
        tiles = (plan.cut(image, tile) for image, plan in zip(images, plans, strict=True) for tile in range(len(plan)))
        # Groups go on from one image to the next: many small images are computed together.
        measured: list[FeatureEvidence] = []
        first = waiting = 0
        while group := list(islice(tiles, chunk_size)):
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
        side = self.image_shape[1]
        return tile_plan(*size_of(image), side, side // self.flows.feature_shape[1])

    def measure(self, images: Pixels) -> FeaturePass:
        """Run images or tiles, uint8 ``(N, C, H, W)``, as one group."""
        return FeaturePass(self.flows, self._measured(images), self.image_shape[1:])

    def _measured(self, images: Pixels) -> FeatureEvidence:
        squares, pooled = self.engine.squares(images)
        return FeatureEvidence(0.5 * squares, 0.5 * pooled)

    def evidence(self, images: Batch, found: DensityPass) -> Evidence:
        assert isinstance(found, FeaturePass)
        nothing = np.zeros((len(found), 0))
        return Evidence(nothing, nothing, features=found.evidence(), white_levels=white_levels(images))


class HybridDensity(PixelDensity):
    """Density with log-likelihoods of pixels alone, whose evidence includes that of features."""

    def __init__(self, pixels: PixelDensity, features: FeatureDensity) -> None:
        super().__init__(pixels.engine, pixels.frozen, pixels.weights_digest)
        self.pixels = pixels
        self.features = features
        self.step_pixels += features.step_pixels
        self.chunk_size = min(pixels.chunk_size, features.chunk_size)

    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        """Return the evidence of the pixels from their pass, with that of features from a pass of its own."""
        features = self.features.measure(stacked(images)).evidence()
        return replace(super().evidence(images, density_pass), features=features)


def joined_density(pixels: PixelDensity | None, features: FeatureDensity | None) -> ImageDensity:
    """Return the density of pixels, of features, or of pixels with the evidence of features."""
    if pixels is not None and features is not None:
        return HybridDensity(pixels, features)
    density = pixels or features
    assert density is not None
    return density


def parts_of(density: ImageDensity) -> tuple[PixelDensity | None, FeatureDensity | None]:
    """Return the densities over pixels and over features, None where missing."""
    if isinstance(density, HybridDensity):
        return density.pixels, density.features
    return (
        density if isinstance(density, PixelDensity) else None,
        density if isinstance(density, FeatureDensity) else None,
    )
