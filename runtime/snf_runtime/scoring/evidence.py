"""Evidence: all statistics of images from which verdicts are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_runtime.images.batch import TilePlan
from snf_runtime.scoring.flow_pass import FlowPass, channel_statistics, whole_image_statistics

MAX_CELLS = 16
"""Largest number of cells along the longer side, so that the covariance of all cells can be estimated."""
SQUARES = (2, 4, 6)
"""Side lengths of square regions, in cells."""


@dataclass(frozen=True)
class Region:
    """A rectangle of grid cells over an image: rows ``top`` to ``bottom - 1``, columns ``left`` to ``right - 1``."""

    top: int
    bottom: int
    left: int
    right: int

    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left


def cell_side(height: int, width: int) -> int:
    """Return the side of a cell in pixels: a sixteenth of the longer side of the image, rounded up.

    >>> cell_side(28, 28), cell_side(32, 32), cell_side(64, 64)
    (2, 2, 4)
    """
    return math.ceil(max(height, width) / MAX_CELLS)


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of cells over an image, at most 16 each."""
    side = cell_side(height, width)
    return math.ceil(height / side), math.ceil(width / side)


def pool(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum maps over cells, ``(N, H, W) -> (N, cells)``."""
    height, width = maps.shape[1:]
    side = cell_side(height, width)
    rows = np.add.reduceat(maps, np.arange(0, height, side), axis=1)
    cells: NDArray[np.float64] = np.add.reduceat(rows, np.arange(0, width, side), axis=2)
    return cells.reshape(len(maps), -1)


@lru_cache(maxsize=64)
def regions(rows: int, columns: int) -> list[list[Region]]:
    """Return the squares of each size smaller than the grid, then full rows and columns, which are never empty."""
    shapes = [
        [
            Region(top, top + side, left, left + side)
            for top in range(rows - side + 1)
            for left in range(columns - side + 1)
        ]
        for side in SQUARES
        if side < min(rows, columns)
    ]
    lines = [Region(row, row + 1, 0, columns) for row in range(rows)]
    lines += [Region(0, rows, column, column + 1) for column in range(columns)]
    return [*shapes, lines]


def members(of_one_shape: Sequence[Region], columns: int) -> NDArray[np.intp]:
    """Return the flat indices of each region's cells, ``(regions, cells)``, in a grid flattened by rows."""
    height, width = of_one_shape[0].shape()
    corners = np.array([region.top * columns + region.left for region in of_one_shape], np.intp)
    cells: NDArray[np.intp] = corners[:, None, None] + np.arange(height)[:, None] * columns + np.arange(width)
    return cells.reshape(len(of_one_shape), -1)


QUANTILE = 0.99
LEVELS = 256
SMALL = 2**14
"""Most values of an image that are sorted. Those of larger ones are counted by levels, in a tenth of the time."""
AT_ONCE = 2**22
"""Most values that are counted at once, because they are copied where an image is not stored channel by channel."""


def white_levels(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the smallest level that 99 % of an image's values do not exceed: it varies less than means do.

    >>> white_levels([np.arange(100, dtype=np.uint8).reshape(1, 10, 10)]).tolist()
    [98]
    """
    return np.array([_white_level(image) for image in images], dtype=np.uint8)


def _white_level(image: NDArray[np.uint8]) -> np.uint8:
    place = int(np.ceil(QUANTILE * image.size)) - 1
    if image.size <= SMALL:
        level: np.uint8 = np.partition(image, place, axis=None)[place]
        return level
    channels, height, width = image.shape
    rows = max(1, AT_ONCE // (channels * width))
    counts = np.zeros(LEVELS, dtype=np.int64)
    for top in range(0, height, rows):
        counts += Image.fromarray(image[:, top : top + rows].reshape(-1, width)).histogram()
    return np.uint8(np.searchsorted(np.cumsum(counts), place, side="right"))


@dataclass(frozen=True)
class FeatureEvidence:
    """Negative log-densities of features up to constants, under several fits, for the T tiles of all images in turn."""

    places: NDArray[np.floating]  # (T, fits, rows, columns) in nats
    pooled: NDArray[np.floating]  # (T, fits, groups) in nats
    plans: tuple[TilePlan, ...] | None = None  # None where every image is one tile

    def __len__(self) -> int:
        return len(self.places) if self.plans is None else len(self.plans)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> FeatureEvidence:
        if self.plans is None:
            return FeatureEvidence(self.places[rows], self.pooled[rows])
        numbers = np.arange(len(self))[rows].tolist()
        tiles = [np.arange(start, stop) for start, stop in (self.tiles[number] for number in numbers)]
        every = np.concatenate([np.zeros(0, dtype=np.intp), *tiles])
        return FeatureEvidence(self.places[every], self.pooled[every], tuple(self.plans[number] for number in numbers))

    @classmethod
    def join(cls, parts: Sequence[FeatureEvidence]) -> FeatureEvidence:
        plans = [plan for part in parts if part.plans is not None for plan in part.plans]
        return cls(
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.pooled for part in parts]),
            None if parts[0].plans is None else tuple(plans),
        )

    @cached_property
    def tiles(self) -> list[tuple[int, int]]:
        """The range ``(start, stop)`` of each image's tiles among all."""
        counts = [1] * len(self.places) if self.plans is None else [len(plan) for plan in self.plans]
        ends = list(accumulate(counts))
        return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + self.pooled.nbytes

    @property
    def fits(self) -> int:
        """The number of fits: the first is to all training images, each other one leaves a fold out."""
        return int(self.places.shape[1])


@dataclass(frozen=True)
class Evidence:
    """Statistics of images from which verdicts are computed."""

    whole: NDArray[np.float64]  # (N, K); K is 0 for a density of features alone
    cells: NDArray[np.float64]  # log-likelihoods, (N, cells) in nats
    features: FeatureEvidence | None = None
    white_levels: NDArray[np.uint8] | None = None  # (N,); not part of the anomaly statistic
    channels: NDArray[np.float64] | None = None  # of latents, (N, M)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Evidence:
        features = None if self.features is None else self.features[rows]
        levels = None if self.white_levels is None else self.white_levels[rows]
        channels = None if self.channels is None else self.channels[rows]
        return Evidence(self.whole[rows], self.cells[rows], features, levels, channels)

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """Concatenate evidence; what not all parts have is None."""
        features = [part.features for part in parts if part.features is not None]
        levels = [part.white_levels for part in parts if part.white_levels is not None]
        channels = [part.channels for part in parts if part.channels is not None]
        return cls(
            np.concatenate([part.whole for part in parts]),
            np.concatenate([part.cells for part in parts]),
            FeatureEvidence.join(features) if features else None,
            np.concatenate(levels) if len(levels) == len(parts) else None,
            np.concatenate(channels) if len(channels) == len(parts) else None,
        )


def gather(images: NDArray[np.uint8], flow_pass: FlowPass) -> Evidence:
    """Compute the evidence of images, uint8 ``(N, C, H, W)``, from the pass of their first draw."""
    cells = pool(flow_pass.additive_map())
    return Evidence(
        whole_image_statistics(images, flow_pass),
        cells,
        white_levels=white_levels(images),
        channels=channel_statistics(flow_pass),
    )
