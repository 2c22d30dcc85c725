"""Sums of features and of their products, which grow image by image, for the fit of Gaussian flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.bijections.base import Shape
from snf_models.bijections.local_affine import cell_of_places, places_of_cells
from snf_models.flows.architecture import FINEST_GRID


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
