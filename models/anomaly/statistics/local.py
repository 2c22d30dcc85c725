"""The family of local statistics: whether a region's log-density fits what the rest of the image says of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.anomaly.density.conditioning import Conditioning
from models.anomaly.density.gaussian import shrunk_covariance
from models.anomaly.density.tails import Tail
from models.scoring.grid import Region, members, regions

Array = NDArray[np.float64]

FLAT = 0.1
"""Cells whose deviation is below this share of the median one count as if it were that."""
MIN_SPREAD = 1e-9
MIN_EXTREME = 0.1
"""The logarithm of an extreme is taken; one below this is none."""


@dataclass(frozen=True)
class LocalFamily:
    """The largest deviations, of both signs, of regions of several shapes from their prediction.

    Cells v of the additive map are taken for Gaussian. A region B is predicted from all cells outside it, and the
    deviation of its sum is, with P the precision matrix, w the cells' deviations and C = (P_BB)^-1,

        z_B = w' C (P v)_B / sqrt(w' C w)

    which is standard normal where the model holds, and linear in v: ``weights`` holds a column a region, ``(cells,
    regions)``, float32. A hole is a region that is far more likely than its surroundings say, a scratch one that is
    less. The extremes over all regions of a shape are standardised given complexity; the most surprising counts.
    """

    grid: NDArray[np.int64]
    location: Array
    scale: Array
    weights: NDArray[np.float32]
    conditioning: Conditioning
    tails: tuple[Tail, ...]
    joint: Tail

    @classmethod
    def fit(cls, cells: Array, complexity: Array, grid: tuple[int, int]) -> Self:
        """Fit to the cells ``(n, rows * columns)`` and complexities ``(n,)`` of reference images."""
        deviation = cells.std(0)
        location, scale = cells.mean(0), np.maximum(deviation, max(FLAT * float(np.median(deviation)), MIN_SPREAD))
        standardised = (cells - location) / scale
        precision = np.linalg.inv(shrunk_covariance(standardised)).astype(np.float64)
        weights = np.stack([_predictor(region, grid[1], precision, scale) for region in _flat(grid)], 1)
        found = np.maximum((standardised @ weights).std(0), MIN_SPREAD)
        weights = (weights / found).astype(np.float32)
        extremes = _extremes(standardised @ weights.astype(np.float64), grid)
        conditioning = Conditioning.fit(extremes, complexity)
        z = conditioning(extremes, complexity)
        tails = tuple(Tail.fit(column) for column in z.T)
        joint = Tail.fit(_surprises(z, tails).max(1))
        return cls(np.array(grid), location, scale, weights, conditioning, tails, joint)

    @cached_property
    def _weights(self) -> Array:
        return self.weights.astype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return int(self.grid[0]), int(self.grid[1])

    def deviations(self, cells: Array) -> Array:
        """Return z of every region, ``(N, cells)`` -> ``(N, regions)``; positive: more likely than predicted."""
        return ((cells - self.location) / self.scale) @ self._weights

    def unevenness(self, cells: Array) -> Array:
        """Return log of the mean z² over the regions of each shape, ``(N, cells)`` -> ``(N, shapes)``.

        About 0 for reference images; a statistic of the whole image: some are calmer throughout, some wilder.
        """
        squares = np.square(self.deviations(cells))
        ends = np.cumsum([0] + [len(shape) for shape in regions(*self.shape)])
        means = [squares[:, start:stop].mean(1) for start, stop in itertools.pairwise(ends)]
        found: Array = np.log(np.stack(means, 1) + MIN_SPREAD)
        return found

    def surprises(self, cells: Array, complexity: Array) -> Array:
        """Return -ln P of each extreme, ``(N, 2 * shapes)``: largest and smallest z of the first shape, and so on."""
        extremes = _extremes(self.deviations(cells), self.shape)
        return _surprises(self.conditioning(extremes, complexity), self.tails)

    def surprise(self, cells: Array, complexity: Array) -> Array:
        """Return -ln P of evidence as strong as this, ``(N,)``, in nats."""
        return self.joint.surprise(self.surprises(cells, complexity).max(1))

    def strangest(self, cells: Array, complexity: Array) -> list[tuple[Region, float]]:
        """Return the region that speaks loudest in each image, and its z."""
        z, loudest = self.deviations(cells), self.surprises(cells, complexity).argmax(1)
        ends = np.cumsum([0] + [len(shape) for shape in regions(*self.shape)])
        flat = _flat(self.shape)
        found = []
        for row, place in zip(z, loudest.tolist(), strict=True):
            start, stop = ends[place // 2], ends[place // 2 + 1]
            part = row[start:stop]
            best = start + int(part.argmin() if place % 2 else part.argmax())
            found.append((flat[best], float(row[best])))
        return found


def _flat(grid: tuple[int, int]) -> list[Region]:
    return [region for shape in regions(*grid) for region in shape]


def _predictor(region: Region, columns: int, precision: Array, scale: Array) -> Array:
    inside = members(region, columns)
    weight = np.linalg.solve(precision[np.ix_(inside, inside)], scale[inside])
    found: Array = weight @ precision[inside] / np.sqrt(scale[inside] @ weight)
    return found


def _extremes(z: Array, grid: tuple[int, int]) -> Array:
    """Return the logs of the largest deviations of each shape up and down, ``(N, regions)`` -> ``(N, 2 * shapes)``.

    Raises ``ValueError`` for deviations of other regions than those of ``grid``.
    """
    columns, start = [], 0
    for shape in regions(*grid):
        part = z[:, start : start + len(shape)]
        columns += [part.max(1), -part.min(1)]
        start += len(shape)
    if start != z.shape[1]:
        raise ValueError(f"expected {start} regions on a grid of {grid[0]} x {grid[1]}, got {z.shape[1]}")
    extremes: Array = np.log(np.maximum(np.stack(columns, 1), MIN_EXTREME))
    return extremes


def _surprises(z: Array, tails: tuple[Tail, ...]) -> Array:
    return np.stack([tail.surprise(column) for tail, column in zip(tails, z.T, strict=True)], 1)
