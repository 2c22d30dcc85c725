"""Division of images of any size into overlapping tiles that are aligned to one grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.preprocessing import Pixels

SHARED = 8
"""Neighbouring tiles share at least one place in so many of a side. Part of every model of tiles: do not change it."""

Value = TypeVar("Value", bound=np.generic)
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class TilePlan:
    """Division of an image into overlapping square tiles.

    A tile consists of places. A place is a square with sides of ``stride`` pixels, which has features of its own.

    Where the image ends within a tile, it is extended by mirroring. Tiles are numbered by rows, from the top left.

    Attributes:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        side: Side of a tile in pixels.
        stride: Side of a place in pixels, which divides ``side``.
        tops: First rows of the rows of tiles in pixels, rising multiples of ``stride``.
        lefts: First columns of the columns of tiles in pixels, in the same way.
    """

    height: int
    width: int
    side: int
    stride: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def grid(self) -> tuple[int, int]:
        """The numbers of rows and columns of places (squares with sides of ``stride`` pixels) that cover the image.

        The last ones may reach beyond its edges.
        """
        return math.ceil(self.height / self.stride), math.ceil(self.width / self.stride)

    @property
    def middle(self) -> int:
        """The index of a tile in the middle of the image."""
        return len(self.tops) // 2 * len(self.lefts) + len(self.lefts) // 2

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Return the bounding box of the tile with a given number, cut off at the image's edges.

        The box is left, top, right and bottom in pixels.
        """
        row, column = divmod(number, len(self.lefts))
        top, left = self.tops[row], self.lefts[column]
        return left, top, min(left + self.side, self.width), min(top + self.side, self.height)

    def cut(self, image: Pixels, number: int) -> Pixels:
        """Return the pixels of the tile with a given number, uint8 ``(C, side, side)``.

        Args:
            image: The image, uint8 ``(C, H, W)``.
            number: The number of the tile.
        """
        row, column = divmod(number, len(self.lefts))
        top, left = self.tops[row], self.lefts[column]
        part = np.ascontiguousarray(image[:, top : top + self.side, left : left + self.side])
        below, right = self.side - part.shape[1], self.side - part.shape[2]
        return np.pad(part, ((0, 0), (0, below), (0, right)), mode="symmetric") if below or right else part

    def merged(self, values: NDArray[Value]) -> NDArray[Value]:
        """Merge the value grids of overlapping tiles into one grid that covers the whole image.

        The shapes are ``(tiles, side / stride, side / stride) -> grid``.

        Where tiles overlap, the value is that of the tile whose centre is nearest.
        """
        (row, inner_row), (column, inner_column) = self._nearest
        in_rows = values.reshape(len(self.tops), len(self.lefts), *values.shape[1:])
        return in_rows[row[:, None], column, inner_row[:, None], inner_column]

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up the values of overlapping tiles place by place, in one grid that covers the whole image.

        The result has the sum at each place of the grid. Values beyond the edges of the grid are left out.

        Args:
            values: The values of the tiles, ``(tiles, side / stride, side / stride)``.
        """
        rows, columns = self.grid
        places = values.shape[1]
        total = np.zeros((self.tops[-1] // self.stride + places, self.lefts[-1] // self.stride + places))
        for number, of_tile in enumerate(values):
            row, column = divmod(number, len(self.lefts))
            top, left = self.tops[row] // self.stride, self.lefts[column] // self.stride
            total[top : top + places, left : left + places] += of_tile
        return total[:rows, :columns]

    @cached_property
    def _nearest(self) -> tuple[tuple[Indices, Indices], tuple[Indices, Indices]]:
        """For each row of the grid the row of tiles and the row in the tile, and the same for its columns."""
        rows, columns = self.grid
        return self._nearest_of(self.tops, rows), self._nearest_of(self.lefts, columns)

    def _nearest_of(self, origins: tuple[int, ...], places: int) -> tuple[Indices, Indices]:
        first = np.array(origins) // self.stride
        # Doubled, so that all distances are whole numbers.
        distances = np.abs(2 * np.arange(places)[:, None] + 1 - (2 * first + self.side // self.stride))
        tile: Indices = distances.argmin(1)
        return tile, np.arange(places) - first[tile]


@lru_cache(maxsize=4096)
def tile_plan(height: int, width: int, side: int, stride: int) -> TilePlan:
    """Return the division of an image into as few evenly spaced, overlapping tiles as possible.

    Neighbouring tiles share at least p // 8 of the p places along a side, and at least 1. Tiles of a single place do
    not overlap. Raises ``ValueError`` if ``side`` is not a multiple of ``stride``.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        side: Side of a tile in pixels, a multiple of ``stride``.
        stride: Side of a place in pixels.

    >>> tile_plan(300, 600, 256, 16)
    TilePlan(height=300, width=600, side=256, stride=16, tops=(0, 48), lefts=(0, 176, 352))
    >>> len(tile_plan(4096, 4096, 256, 16)), len(tile_plan(10_000, 10_000, 256, 16)), len(tile_plan(5, 9, 256, 16))
    (361, 2025, 1)
    """
    if side % stride:
        raise ValueError(f"expected a side that is a multiple of {stride}, got {side}")
    return TilePlan(height, width, side, stride, _origins(height, side, stride), _origins(width, side, stride))


def size_of(image: Pixels) -> tuple[int, int]:
    """Return height and width of an image ``(C, H, W)`` in pixels."""
    return image.shape[1], image.shape[2]


def _origins(length: int, side: int, stride: int) -> tuple[int, ...]:
    """Return the first pixels of evenly spaced tiles along a side of an image, rising multiples of the stride."""
    places = side // stride
    shared = min(max(1, places // SHARED), places - 1)
    # How many places there are to move over, and how many a tile may move at most.
    free, step = max(0, math.ceil(length / stride) - places), places - shared
    moves = math.ceil(free / step)
    return 0, *(stride * (move * free // moves) for move in range(1, moves + 1))
