"""Closed-form fit of local affine flows, with grid and shrinkage chosen by held-out log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.artifacts.manifest import GridChoice
from snf_models.bijections.base import Shape
from snf_models.bijections.local_affine import (
    ExactLocalAffine,
    SelfNormalizingLocalAffine,
    cell_of_places,
    places_of_cells,
)
from snf_models.flows.architecture import FINEST_GRID
from snf_models.threads import torch_threads


class FeatureMoments:
    """Running sums of shifted features in each fold, with products for each cell of the finest grid."""

    def __init__(self, shape: Shape, folds: int, groups: Sequence[int] | None = None) -> None:
        channels, rows, columns = shape
        if groups is not None and rows * columns > 1:
            raise ValueError(f"expected a single place for features in groups, got {rows}x{columns}")
        group = torch.repeat_interleave(torch.tensor(groups or [channels]))
        self.related = (group[:, None] == group).double()
        self.shape = shape
        self.cells = cell_of_places(rows, columns, FINEST_GRID)
        self.images = torch.zeros(folds, dtype=torch.float64)
        self.sums = torch.zeros(folds, rows * columns, channels, dtype=torch.float64)
        self.products = torch.zeros(folds, int(self.cells.max()) + 1, channels, channels, dtype=torch.float64)
        self.shift: Tensor | None = None

    def add(self, features: NDArray[np.float32], folds: NDArray[np.integer], sign: int = 1) -> None:
        """Add ``(N, C, rows, columns)`` to the folds ``(N,)``; with ``sign`` -1 take them away."""
        x = torch.from_numpy(features).flatten(2).permute(2, 0, 1).double()
        if self.shift is None:
            self.shift = x.mean((0, 1))
        x = x - self.shift
        table, _ = places_of_cells(*self.shape[1:], FINEST_GRID)
        for fold in np.unique(folds).tolist():
            own = x[:, torch.from_numpy(np.flatnonzero(folds == fold))]
            self.images[fold] += sign * own.shape[1]
            self.sums[fold] += sign * own.sum(1)
            for column in range(table.shape[1]):
                # A cell with fewer places repeats its first one, which must count once.
                places = table[:, column]
                new = torch.ones(len(places), dtype=torch.bool) if column == 0 else places != table[:, 0]
                of_place = own[places[new]]
                self.products[fold, new] += sign * (of_place.mT @ of_place)

    def total(self, folds: list[int]) -> MomentSum:
        """Return the sums over several folds."""
        assert self.shift is not None
        return MomentSum(
            self.shape,
            float(self.images[folds].sum()),
            self.sums[folds].sum(0),
            self.products[folds].sum(0),
            self.shift,
            self.related,
        )


@dataclass(frozen=True)
class MomentSum:
    """Sums of some folds, by which means and covariances are computed."""

    shape: Shape
    images: float
    sums: Tensor  # of shifted features, ``(places, C)``
    products: Tensor  # in the cells of the finest grid, ``(cells, C, C)``
    shift: Tensor  # subtracted from each channel, ``(C,)``
    related: Tensor  # which channels are in the same group, ``(C, C)`` of 0 and 1

    @property
    def means(self) -> Tensor:
        """Means of shifted features, ``(places, C)``."""
        return self.sums / self.images

    @cached_property
    def everywhere(self) -> Tensor:
        """Covariance over all places, each centred at its own mean, ``(C, C)``."""
        return self.scatter(1, self.means)[0] / (self.images * len(self.sums))

    def places(self, grid: int, only: Tensor | None = None) -> Tensor:
        """Return the number of places in each cell of a grid, ``(cells,)``, or of those in ``only``."""
        rows, columns = self.shape[1:]
        cells = cell_of_places(rows, columns, grid)
        counted = None if only is None else only[cell_of_places(rows, columns, FINEST_GRID)].double()
        return torch.bincount(cells, counted, minlength=int(cells.max()) + 1).double()

    def cell_means(self, grid: int) -> Tensor:
        """Return for each place the mean over its cell, ``(places, C)``."""
        cells = cell_of_places(*self.shape[1:], grid)
        totals = torch.zeros(int(cells.max()) + 1, self.shape[0], dtype=torch.float64).index_add_(0, cells, self.sums)
        return (totals / (self.images * self.places(grid))[:, None])[cells]

    def scatter(self, grid: int, means: Tensor, only: Tensor | None = None) -> Tensor:
        """Sum (x - m)(x - m)^T over images and places for each cell, ``(cells, C, C)``."""
        rows, columns = self.shape[1:]
        finest, cells = cell_of_places(rows, columns, FINEST_GRID), cell_of_places(rows, columns, grid)
        parent = torch.empty(len(self.products), dtype=torch.long)
        parent[finest] = cells
        products = self.products if only is None else self.products[only]
        channels = self.shape[0]
        total = torch.zeros(int(cells.max()) + 1, channels, channels, dtype=torch.float64)
        total.index_add_(0, parent if only is None else parent[only], products)
        # (x - m)(x - m)^T = x x^T - s m^T - m s^T + n m m^T, summed.
        mixed = self.products_at_places(grid, self.sums - 0.5 * self.images * means, means, only)
        return (total - mixed - mixed.mT) * self.related

    def products_at_places(self, grid: int, left: Tensor, right: Tensor, only: Tensor | None = None) -> Tensor:
        """Sum left right^T of ``(places, C)`` over the places of each cell, ``(cells, C, C)``."""
        rows, columns = self.shape[1:]
        table, _ = places_of_cells(rows, columns, grid)
        counted = torch.zeros(table.shape, dtype=torch.float64)
        # A cell with fewer places repeats its first one, which must count once.
        counted[:, 0] = 1
        counted[:, 1:] = (table[:, 1:] != table[:, :1]).double()
        if only is not None:
            counted = counted * only[cell_of_places(rows, columns, FINEST_GRID)][table]
        return torch.bmm((left[table] * counted[:, :, None]).mT, right[table])


GRIDS = (1, 2, 4, 8, 16)
"""Grids that are tried, by their cells along each side, coarsest first; each divides the finest grid."""
SHRINKAGES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
"""Degrees of shrinkage of covariances that are tried."""
MEAN_SHRINKAGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # degrees of shrinkage of means that are tried
START_SHRINKAGE, START_MEAN_SHRINKAGE = SHRINKAGES.index(0.1), 0
FEW_CELLS = 64  # number of cells of the finest grid up to which held-out likelihoods are computed in all cells
RIDGE = 1e-3  # number that is added to the diagonal of every covariance of standardised features
SMALLEST_DEVIATION = 1e-6  # smallest number that a channel is divided by to standardise it

Target = Literal["all-places", "identity"]
"""What covariances are shrunk towards: that of all places, or the identity where there is a single place."""


def choose(moments: FeatureMoments, folds: Sequence[int], target: Target = "all-places") -> list[GridChoice]:
    """Cross-validate grids and shrinkages, each grid from the best of the next coarser one; return the best first."""
    if len(folds) < 2:
        raise ValueError(f"expected at least two folds to choose by, got {len(folds)}")
    trains, helds = _trained_and_held(moments, folds)
    sides = moments.shape[1:]
    covariance, mean = START_SHRINKAGE, START_MEAN_SHRINKAGE
    choices = []
    with each_thread_alone() as pool:
        for grid in (grid for grid in GRIDS if grid == 1 or grid // 2 < max(sides)):
            held_out = list(pool.map(partial(HeldOut, grid=grid, target=target), trains, helds))
            value = cache(partial(_mean_nats, pool, held_out))
            while True:
                before = covariance, mean
                if grid > 1 or target == "identity":
                    covariance = _descend(partial(value, mean=mean), covariance, len(SHRINKAGES))
                if max(sides) > 1:
                    mean = _descend(partial(value, covariance), mean, len(MEAN_SHRINKAGES))
                if (covariance, mean) == before:
                    break
            choices.append(
                GridChoice(
                    grid=grid,
                    shrinkage=SHRINKAGES[covariance],
                    mean_shrinkage=MEAN_SHRINKAGES[mean],
                    held_out_nats=value(covariance, mean),
                )
            )
    return sorted(choices, key=lambda choice: choice.held_out_nats)


def one_gaussian(moments: FeatureMoments, folds: Sequence[int]) -> float:
    """Return the held-out loss, nats for each value, of one Gaussian for all places, to compare choices with."""
    values = [
        HeldOut(*each, 1, "all-places").nats(0.0, 1.0) for each in zip(*_trained_and_held(moments, folds), strict=True)
    ]
    return sum(values) / len(values)


def _trained_and_held(moments: FeatureMoments, folds: Sequence[int]) -> tuple[list[MomentSum], list[MomentSum]]:
    """Return for each fold with images the sums of all others, and its own."""
    filled = [fold for fold in folds if moments.images[fold] > 0]
    trained = [moments.total([other for other in folds if other != fold]) for fold in filled]
    return trained, [moments.total([fold]) for fold in filled]


class HeldOut:
    """Likelihood of held-out features from their moments, as the sum of (x - m)^T V^-1 (x - m) is tr(V^-1 S)."""

    def __init__(self, train: MomentSum, held: MomentSum, grid: int, target: Target) -> None:
        some = evaluated_cells(train.shape)
        places = held.places(grid, some)
        used = places > 0
        # The cells of the finest grid have no places of others: only those that are used are summed.
        only = used if len(used) == len(train.products) else None
        step = train.cell_means(grid) - train.means
        self._scale = train.everywhere.diagonal().clamp_min(SMALLEST_DEVIATION**2).sqrt()
        outer = self._scale[:, None] * self._scale
        self._eye = torch.eye(len(self._scale), dtype=torch.float64)
        self._aim = self._eye if target == "identity" else train.everywhere / outer
        count = (train.images * train.places(grid)[used])[:, None, None]
        self._within = train.scatter(grid, train.means, only)[used] / count / outer
        self._between = train.images * train.products_at_places(grid, step, step, only)[used] / count / outer
        rest = held.sums - held.images * train.means
        cross = held.products_at_places(grid, rest, step, some)[used] / outer
        self._held = held.scatter(grid, train.means, some)[used] / outer
        self._cross = cross + cross.mT
        self._step = held.images * held.products_at_places(grid, step, step, some)[used] / outer
        self._weights = held.images * places[used]

    def nats(self, shrinkage: float, mean_shrinkage: float) -> float:
        """Return the mean negative log-likelihood, nats for each value, over :func:`evaluated_cells`."""
        b = mean_shrinkage
        covariances = (1 - shrinkage) * (self._within + b * b * self._between) + shrinkage * self._aim
        factors = torch.linalg.cholesky(covariances + RIDGE * self._eye)
        scatter = self._held - b * self._cross + b * b * self._step
        squares = (torch.cholesky_inverse(factors) * scatter).sum((1, 2))
        log_dets = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1) + 2 * self._scale.log().sum()
        channels = len(self._scale)
        total = 0.5 * (squares + self._weights * (log_dets + channels * math.log(2 * math.pi))).sum()
        return float(total / (self._weights.sum() * channels))


def evaluated_cells(shape: Shape) -> Tensor:
    """Return which cells of the finest grid compare fits, bool ``(cells,)``: all up to 64, else a quarter."""
    rows, columns = min(shape[1], FINEST_GRID), min(shape[2], FINEST_GRID)
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    some = (row + 2 * column) % 4 == 0 if rows * columns > FEW_CELLS else torch.ones(rows, columns, dtype=torch.bool)
    return some.flatten()


@torch.no_grad()
def fit_layer(
    layer: ExactLocalAffine,
    moments: FeatureMoments,
    folds: Sequence[int],
    choice: GridChoice,
    target: Target = "all-places",
) -> None:
    """Set W = L^-1 D^-1, the mean and R = D L, the most likely flow, for covariances D L L^T D of some folds."""
    train, b = moments.total(list(folds)), choice.mean_shrinkage
    with torch_threads(1):
        means = (1 - b) * train.means + b * train.cell_means(choice.grid)
        scale = train.everywhere.diagonal().clamp_min(SMALLEST_DEVIATION**2).sqrt()
        outer = scale[:, None] * scale
        counts = (train.images * train.places(choice.grid))[:, None, None]
        covariances = train.scatter(choice.grid, means) / counts / outer
        eye = torch.eye(len(scale), dtype=torch.float64)
        aim = eye if target == "identity" else train.everywhere / outer
        mixed = (1 - choice.shrinkage) * covariances + choice.shrinkage * aim + RIDGE * eye
        factors = torch.linalg.cholesky(mixed)
        inverse = torch.linalg.solve_triangular(factors, eye.expand_as(factors), upper=False)
        layer.weight.copy_(inverse / scale)
        layer.mean.copy_((means + train.shift).T.reshape(layer.shape))
        if isinstance(layer, SelfNormalizingLocalAffine):
            layer.inverse_weight.copy_(scale[:, None] * factors)


def _mean_nats(pool: Executor, held_out: Sequence[HeldOut], covariance: int, mean: int) -> float:
    shrinkages = SHRINKAGES[covariance], MEAN_SHRINKAGES[mean]
    values: list[float] = list(pool.map(lambda part: part.nats(*shrinkages), held_out))
    return sum(values) / len(values)


@contextmanager
def each_thread_alone() -> Iterator[Executor]:
    """Yield a pool of single-threaded tasks: threads that share a small matrix mostly wait for each other."""
    threads = torch.get_num_threads()
    with torch_threads(1), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def _descend(value: Callable[[int], float], start: int, count: int) -> int:
    """Return a number below ``count`` whose value is the smallest among its neighbours, by descent from ``start``."""
    best = start
    while True:
        neighbours = [place for place in (best - 1, best + 1) if 0 <= place < count]
        better = min(neighbours, key=value)
        if value(better) >= value(best):
            return best
        best = better
