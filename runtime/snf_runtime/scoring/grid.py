"""Coarse grid of cells for local statistics, and the regions of cells on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
