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
    """A Gaussian model that finds image regions with unusual log-likelihoods.

    A region is unusual if the rest of the image does not predict its log-likelihood.

    The cells v of the log-likelihood map are modelled as Gaussian. A region B is predicted from all cells outside it.
    With P the precision matrix, w the standard deviations of the cells and C = (P_BB)^-1, the deviation of its sum is

        z_B = w' C (P v)_B / sqrt(w' C w)

    which is standard normal where the model holds, and linear in v. A hole is far more likely than its surroundings
    predict, a scratch far less. The extremes over all regions of a shape are standardised given complexity; the most
    surprising of them counts.

    Attributes:
        grid: Rows and columns of cells.
        location: Means of the cells, ``(cells,)`` in nats.
        scale: Standard deviations of the cells, ``(cells,)`` in nats.
        weights: The coefficients of z, one column for each region, ``(cells, regions)``, float32.
        conditioning: The standardisation of the extremes.
        tails: The survival function of each extreme.
        joint: The survival function of the largest surprise.
    """

    grid: NDArray[np.int64]
    location: Array
    scale: Array
    weights: NDArray[np.float32]
    conditioning: Conditioning
    tails: tuple[Tail, ...]
    joint: Tail

    @cached_property
    def _weights(self) -> Array:
        return self.weights.astype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and columns of the grid that divides an image into cells.

        There are at most 16 of each.
        """
        return int(self.grid[0]), int(self.grid[1])

    def deviations(self, cells: Array) -> Array:
        """Return how far each image region's log-likelihood is from what the rest of the image predicts.

        The deviations are z-scores against the prediction by the rest of the image, ``(N, cells)`` -> ``(N, regions)``.

        ``cells`` are log-likelihoods in nats. A region with a positive z-score is more likely than predicted.
        """
        return ((cells - self.location) / self.scale) @ self._weights

    def unevenness(self, cells: Array) -> Array:
        """Return how much the log-likelihood varies over the regions of each image, as one number per region shape.

        It is ln of the mean z² over all regions of the shape, ``(N, cells)`` -> ``(N, shapes)``.

        z is the deviation of a region from its prediction. The result is about 0 for reference images. It is a
        statistic of the whole image.
        """
        squares = np.square(self.deviations(cells))
        ends = np.cumsum([0] + [len(shape) for shape in regions(*self.shape)])
        means = [squares[:, start:stop].mean(1) for start, stop in itertools.pairwise(ends)]
        unevenness: Array = np.log(np.stack(means, 1) + MIN_SPREAD)
        return unevenness

    def surprises(self, cells: Array, complexity: Array) -> Array:
        """Return negative log p-values of the two most extreme regions of each image, for each region shape.

        The two are the most and the least likely region of the shape.

        The shape of the result is ``(N, 2 * shapes)``, in nats.

        A shape is a size of squares, such as 2x2 cells, or lines. Likely is relative to the log-density that the rest
        of the image predicts.
        """
        extremes = log_extremes(self.deviations(cells), self.shape)
        return tail_surprises(self.conditioning(extremes, complexity), self.tails)

    def surprise(self, cells: Array, complexity: Array) -> Array:
        """Return the negative log p-value of each image, computed from its most unusual region.

        p is the probability that a normal image has a region at least as unusual. The shape is ``(N,)``, in nats.
        """
        return self.joint.surprise(self.surprises(cells, complexity).max(1))

    def most_surprising(self, cells: Array, complexity: Array) -> list[tuple[Region, float]]:
        """Return each image's region with the most unusual log-likelihood, and the z-score of that region.

        The z-score is that of its log-likelihood, given the rest of the image.
        """
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
    """List the square regions of a grid of image cells, smallest first, then its full rows and columns.

    Squares have 2, 4 or 6 cells a side, and are smaller than the grid.

    ``grid`` is its number of rows and columns. The order is that of the columns of z-scores.
    """
    return [region for shape in regions(*grid) for region in shape]


def log_extremes(z: Array, grid: tuple[int, int]) -> Array:
    """Return logs of each image's most extreme region z-scores, above and below zero, for each region shape.

    These are the largest and the smallest z-score of each image.

    The smallest is taken with the opposite sign. Values below 0.1 count as 0.1. The shapes are ``(N, regions)`` ->
    ``(N, 2 * shapes)``.

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


def tail_surprises(z: Array, tails: tuple[Tail, ...]) -> Array:
    """Convert z-scores of image statistics to negative log p-values, by distributions fitted to normal images.

    Each column has a survival function of its own. The shapes are ``(N, K)`` -> ``(N, K)``, in nats.
    """
    return np.stack([tail.surprise(column) for tail, column in zip(tails, z.T, strict=True)], 1)
