"""Sums of features and of their products over images, for the fit of Gaussian flows.

The sums grow image by image, so the features of all images are never in memory together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bijections.base import Shape
from models.bijections.local_affine import cell_of_places, places_of_cells
from models.flows.architecture import FINEST_GRID


class FeatureMoments:
    """Running sums that give the means and covariances of image features in each fold (subset) of images.

    The memory does not grow with the number of images.

    Products are summed over the places of each cell of the finest grid; coarser grids add up cells. Features are
    shifted by their mean over the first images, which keeps the sums precise.

    Args:
        shape: Channels C, rows and columns of the features.
        folds: The number of folds, each of which is summed by itself.
        groups: The numbers of channels in groups that are independent of each other, for features at a single place;
            None for a single group.

    Attributes:
        images: The number of images in each fold, ``(folds,)``.
        sums: Sums of the shifted features at each place, float64 ``(folds, places, C)``.
        products: Sums of products of shifted features in each cell, float64 ``(folds, cells, C, C)``.
        shift: What was subtracted from each channel, float64 ``(C,)``.
        related: Which pairs of channels are in the same group, float64 ``(C, C)`` of 0 and 1.
    """

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
        """Add the features of a batch of images to the running sums, separately for each fold (image subset).

        Args:
            features: The features at places, float32 ``(N, C, rows, columns)``.
            folds: The fold of each image, ``(N,)``.
            sign: -1 to take away images that were added before.
        """
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
        """Return the sums of features and of their outer products over several folds (subsets of images).

        The folds are given by their numbers.
        """
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
    """Sums over the features of a set of images, from which their means and covariances are computed.

    The images are those of one or more folds, or subsets.

    There are sums of features at each place, and sums of products in each cell.

    Attributes:
        shape: Channels C, rows and columns of the features.
        images: The number of images.
        sums: Sums of shifted features, ``(places, C)``.
        products: Sums of products of shifted features in the cells of the finest grid, ``(cells, C, C)``.
        shift: What was subtracted from each channel, ``(C,)``.
        related: Which pairs of channels are in the same group, ``(C, C)`` of 0 and 1. Products of others count as 0.
    """

    shape: Shape
    images: float
    sums: Tensor
    products: Tensor
    shift: Tensor
    related: Tensor

    @property
    def means(self) -> Tensor:
        """The mean feature vector at each position of the feature map, after subtraction of ``shift``.

        Features are shifted by the constant vector ``shift``, which keeps their sums precise.

        The shape is ``(places, C)``.
        """
        return self.sums / self.images

    @cached_property
    def everywhere(self) -> Tensor:
        """Covariance matrix of the features, pooled over all positions of the feature map.

        Features are centred at the mean of their place. The shape is ``(C, C)``.
        """
        return self.scatter(1, self.means)[0] / (self.images * len(self.sums))

    def places(self, grid: int, only: Tensor | None = None) -> Tensor:
        """Return how many positions of the feature map lie in each cell of a grid.

        The shape is ``(cells,)``.

        Args:
            grid: Cells along each side: a divisor of the finest grid.
            only: Which cells of the finest grid to count places in, bool ``(finest cells,)``; None for all.
        """
        rows, columns = self.shape[1:]
        cells = cell_of_places(rows, columns, grid)
        counted = None if only is None else only[cell_of_places(rows, columns, FINEST_GRID)].double()
        return torch.bincount(cells, counted, minlength=int(cells.max()) + 1).double()

    def cell_means(self, grid: int) -> Tensor:
        """Return, for each position of the feature map, the mean feature vector of the grid cell that contains it.

        It is the mean of the shifted features over all places of the cell. The shape is ``(places, C)``.
        """
        cells = cell_of_places(*self.shape[1:], grid)
        totals = torch.zeros(int(cells.max()) + 1, self.shape[0], dtype=torch.float64).index_add_(0, cells, self.sums)
        return (totals / (self.images * self.places(grid))[:, None])[cells]

    def scatter(self, grid: int, means: Tensor, only: Tensor | None = None) -> Tensor:
        """Return the scatter of the features about ``means`` (sums of outer products) in each cell of a grid.

        The grid divides the feature map. The result is a scatter matrix for each cell.

        It is the sum of (x - m)(x - m)^T over the images and the places of the cell. The shape is ``(cells, C, C)``.

        Args:
            grid: Cells along each side: a divisor of the finest grid.
            means: The means m of the shifted features at each place, ``(places, C)``.
            only: Which cells of the finest grid to sum over, bool ``(finest cells,)``; None for all.
        """
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
        """Sum the outer products of the vectors ``left`` and ``right`` over the positions of each grid cell.

        Returns the sums of left right^T, ``(cells, C, C)``.

        Args:
            grid: Cells along each side.
            left: The left factor at each place, ``(places, C)``.
            right: The right factor at each place, ``(places, C)``.
            only: Which cells of the finest grid to sum over, bool ``(finest cells,)``; None for all.
        """
        rows, columns = self.shape[1:]
        table, _ = places_of_cells(rows, columns, grid)
        counted = torch.zeros(table.shape, dtype=torch.float64)
        # A cell with fewer places repeats its first one, which must count once.
        counted[:, 0] = 1
        counted[:, 1:] = (table[:, 1:] != table[:, :1]).double()
        if only is not None:
            counted = counted * only[cell_of_places(rows, columns, FINEST_GRID)][table]
        return torch.bmm((left[table] * counted[:, :, None]).mT, right[table])
