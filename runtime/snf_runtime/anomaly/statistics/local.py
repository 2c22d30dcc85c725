"""Local anomaly statistics: z-scores of the log-likelihoods of image regions, given the rest of the image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.tails import Tail
from snf_runtime.scoring.grid import Region, regions

Array = NDArray[np.float64]

MIN_SPREAD = 1e-9
MIN_EXTREME = 0.1
"""Smallest extreme before its logarithm is taken."""


@dataclass(frozen=True)
class LocalFamily:
    """Gaussian model of log-likelihoods of cells: z_B = w' C (P v)_B / sqrt(w' C w) of region B, given the rest."""

    # P is the precision matrix of the cells v, w their standard deviations, C = (P_BB)^-1. z is standard normal under
    # the model and linear in v. A hole is far more likely than its surroundings predict, a scratch far less.
    grid: NDArray[np.int64]
    location: Array
    scale: Array
    weights: NDArray[np.float32]  # coefficients of z, (cells, regions), float32
    conditioning: Conditioning
    tails: tuple[Tail, ...]
    joint: Tail

    @cached_property
    def _weights(self) -> Array:
        return self.weights.astype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.grid[0]), int(self.grid[1])

    def deviations(self, cells: Array) -> Array:
        """Return z-scores of regions given the rest, from cells in nats; positive where more likely than predicted."""
        return ((cells - self.location) / self.scale) @ self._weights

    def unevenness(self, cells: Array) -> Array:
        """Return ln of the mean z² over all regions of each shape, about 0 for reference images."""
        squares = np.square(self.deviations(cells))
        ends = np.cumsum([0] + [len(shape) for shape in regions(*self.shape)])
        means = [squares[:, start:stop].mean(1) for start, stop in itertools.pairwise(ends)]
        unevenness: Array = np.log(np.stack(means, 1) + MIN_SPREAD)
        return unevenness

    def surprises(self, cells: Array, complexity: Array) -> Array:
        """Return -ln p of the most and the least likely region of each shape, ``(N, 2 * shapes)``."""
        extremes = log_extremes(self.deviations(cells), self.shape)
        return tail_surprises(self.conditioning(extremes, complexity), self.tails)

    def surprise(self, cells: Array, complexity: Array) -> Array:
        """Return -ln p of each image by its most unusual region."""
        return self.joint.surprise(self.surprises(cells, complexity).max(1))

    def most_surprising(self, cells: Array, complexity: Array) -> list[tuple[Region, float]]:
        """Return each image's most unusual region and its z-score."""
        z, extremes = self.deviations(cells), self.surprises(cells, complexity).argmax(1)
        ends = np.cumsum([0] + [len(shape) for shape in regions(*self.shape)])
        flat = all_regions(self.shape)
        strongest = []
        for row, place in zip(z, extremes.tolist(), strict=True):
            start, stop = ends[place // 2], ends[place // 2 + 1]
            part = row[start:stop]
            best = start + int(part.argmin() if place % 2 else part.argmax())
            strongest.append((flat[best], float(row[best])))
        return strongest


def all_regions(grid: tuple[int, int]) -> list[Region]:
    """List the squares, smallest first, then full rows and columns: the order of the columns of z-scores."""
    return [region for shape in regions(*grid) for region in shape]


def log_extremes(z: Array, grid: tuple[int, int]) -> Array:
    """Return ln of the largest z and of minus the smallest, at least 0.1, for each shape, ``(N, 2 * shapes)``."""
    columns, start = [], 0
    for shape in regions(*grid):
        part = z[:, start : start + len(shape)]
        columns += [part.max(1), -part.min(1)]
        start += len(shape)
    if start != z.shape[1]:
        raise ValueError(f"expected {start} regions on a grid of {grid[0]} x {grid[1]}, got {z.shape[1]}")
    extremes: Array = np.log(np.maximum(np.stack(columns, 1), MIN_EXTREME))
    return extremes


def tail_surprises(z: Array, tails: tuple[Tail, ...]) -> Array:
    """Return -ln p of each column by its own survival function."""
    return np.stack([tail.surprise(column) for tail, column in zip(tails, z.T, strict=True)], 1)
