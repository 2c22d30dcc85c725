"""Closed-form fit of local affine flows to features.

The grid and the shrinkage are chosen by the held-out log-likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from models.bijections.base import Shape
from models.bijections.local_affine import ExactLocalAffine, SelfNormalizingLocalAffine
from models.features.moments import FeatureMoments, MomentSum
from models.flows.architecture import FINEST_GRID
from models.threads import torch_threads

GRIDS = (1, 2, 4, 8, 16)
"""Grids that are tried, by their cells along each side, coarsest first; each divides the finest grid."""
SHRINKAGES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
"""Degrees of shrinkage of covariances that are tried."""
MEAN_SHRINKAGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Degrees of shrinkage of means that are tried."""
START_SHRINKAGE, START_MEAN_SHRINKAGE = SHRINKAGES.index(0.1), 0
FEW_CELLS = 64
"""Number of cells of the finest grid up to which held-out likelihoods are computed in all cells."""
RIDGE = 1e-3
"""Number that is added to the diagonal of every covariance of standardised features."""
SMALLEST_DEVIATION = 1e-6
"""Smallest number that a channel is divided by to standardise it."""

Target = Literal["all-places", "identity"]
"""What covariances are shrunk towards: that of all places, or the identity where there is a single place."""


@dataclass(frozen=True)
class FitChoice:
    """Settings of a Gaussian fit to image features, with the negative log-likelihood of held-out features.

    The settings are a grid of cells and two degrees of shrinkage.

    Attributes:
        grid: Cells along each side.
        shrinkage: Share of the target in every covariance, 0 to 1.
        mean_shrinkage: Share of the cell's mean in the mean of every place, 0 to 1.
        held_out: Mean negative log-likelihood of held-out features, in nats for each of their values.
    """

    grid: int
    shrinkage: float
    mean_shrinkage: float
    held_out: float


def choose(moments: FeatureMoments, folds: Sequence[int], target: Target = "all-places") -> list[FitChoice]:
    """Cross-validate Gaussian fits to image features, to choose their cell grid and their regularisation.

    Regularisation is shrinkage of the means and covariances. A grid divides the feature map into cells.

    Returns the choices, sorted with the best grid first.

    Each fold is held out in turn, and its likelihood is that under the Gaussian fitted to the other folds. For each
    grid, the search starts at the best shrinkages of the next coarser grid. It changes one of them after the other to
    the next value of its list, as long as the likelihood rises.

    Args:
        moments: The moments of the features.
        folds: The numbers of the folds to use; at least two.
        target: What covariances are shrunk towards.

    Raises:
        ValueError: There are fewer than two folds.
    """
    if len(folds) < 2:
        raise ValueError(f"expected at least two folds to choose by, got {len(folds)}")
    filled = [fold for fold in folds if moments.images[fold] > 0]
    trains = [moments.total([other for other in folds if other != fold]) for fold in filled]
    helds = [moments.total([fold]) for fold in filled]
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
            choices.append(FitChoice(grid, SHRINKAGES[covariance], MEAN_SHRINKAGES[mean], value(covariance, mean)))
    return sorted(choices, key=lambda choice: choice.held_out)


def one_gaussian(moments: FeatureMoments, folds: Sequence[int]) -> float:
    """Return the held-out loss of fitting image features by a single Gaussian, shared by all positions.

    The result is the mean negative log-likelihood of the features.

    It is in nats per feature value.

    All places have the same mean and covariance, those of the features of all places together, without shrinkage. Each
    fold is held out in turn, as in :func:`choose`, so that the figures can be compared.

    Args:
        moments: The moments of the features.
        folds: The numbers of the folds to use; at least two.
    """
    filled = [fold for fold in folds if moments.images[fold] > 0]
    values = [
        HeldOut(moments.total([other for other in folds if other != fold]), moments.total([fold]), 1, "all-places")
        for fold in filled
    ]
    return sum(value.nats(0.0, 1.0) for value in values) / len(values)


class HeldOut:
    """Likelihood of held-out image features under a Gaussian fitted to features of other images.

    The likelihood is for one grid, and for any degrees of shrinkage.

    It is computed from the moments of the held-out features, without the features themselves. For a covariance V and
    the scatter S of held-out features x about the means m, the sum of (x - m)^T V^-1 (x - m) is tr(V^-1 S). S is
    quadratic in the shrinkage b of the means, m = (1 - b) m_place + b m_cell, so its terms are summed over places once.

    Args:
        train: The moments of the features that the Gaussian is fitted to.
        held: The moments of the held-out features.
        grid: Cells along each side.
        target: What covariances are shrunk towards.
    """

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
        """Return the mean negative log-likelihood of held-out features for a given regularisation of the Gaussian.

        It is in nats per feature value, over the cells that :func:`evaluated_cells` selects.

        Args:
            shrinkage: Share of the target in every covariance, 0 to 1.
            mean_shrinkage: Share of the cell's mean in the mean of every place, 0 to 1.
        """
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
    """Return a mask that selects the cells of a feature map in which Gaussian fits are compared.

    Fits are compared by the likelihood of held-out features.

    The mask is over the cells of the finest grid, bool ``(cells,)``.

    These are all cells if there are at most 64. Otherwise they are a quarter: every other cell of every other row. All
    grids are compared at the places in these cells.

    Args:
        shape: Channels, rows and columns of the features.
    """
    rows, columns = min(shape[1], FINEST_GRID), min(shape[2], FINEST_GRID)
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    some = (row + 2 * column) % 4 == 0 if rows * columns > FEW_CELLS else torch.ones(rows, columns, dtype=torch.bool)
    return some.flatten()


@dataclass(frozen=True)
class LocalGaussian:
    """Gaussian distributions of the features at each position of an image.

    Each position (place) has a mean, and each cell of a grid a covariance.

    Attributes:
        grid: Cells along each side.
        means: Means of the shifted features, ``(places, C)``.
        scale: The deviation that each channel is divided by, ``(C,)``.
        factors: Lower Cholesky factors of the covariances of the divided features, ``(cells, C, C)``.
    """

    grid: int
    means: Tensor
    scale: Tensor
    factors: Tensor

    @classmethod
    def fit(cls, train: MomentSum, grid: int, shrinkage: float, mean_shrinkage: float, target: Target) -> LocalGaussian:
        """Fit a Gaussian at each position of the feature map, from moments of training features and with shrinkage."""
        means = (1 - mean_shrinkage) * train.means + mean_shrinkage * train.cell_means(grid)
        scale = train.everywhere.diagonal().clamp_min(SMALLEST_DEVIATION**2).sqrt()
        outer = scale[:, None] * scale
        covariances = train.scatter(grid, means) / (train.images * train.places(grid))[:, None, None] / outer
        eye = torch.eye(len(scale), dtype=torch.float64)
        aim = eye if target == "identity" else train.everywhere / outer
        mixed = (1 - shrinkage) * covariances + shrinkage * aim + RIDGE * eye
        return cls(grid, means, scale, torch.linalg.cholesky(mixed))

    @torch.no_grad()
    def set_weights(self, layer: ExactLocalAffine, shift: Tensor) -> None:
        """Set an affine layer's weights so that it whitens features that follow the fitted Gaussians.

        The layer gets the matrix W = L^-1 D^-1, the mean m and, if it has a learned inverse R, R = D L.

        L are the factors, and D has the deviations in its diagonal. The layer is then the linear flow of greatest
        likelihood for these covariances.

        Args:
            layer: The layer, for the same features and grid.
            shift: What was subtracted from each channel of the features, ``(C,)``.
        """
        eye = torch.eye(len(self.scale), dtype=torch.float64).expand_as(self.factors)
        inverse = torch.linalg.solve_triangular(self.factors, eye, upper=False)
        layer.weight.copy_(inverse / self.scale)
        layer.mean.copy_((self.means + shift).T.reshape(layer.shape))
        if isinstance(layer, SelfNormalizingLocalAffine):
            layer.inverse_weight.copy_(self.scale[:, None] * self.factors)


def fit_layer(
    layer: ExactLocalAffine,
    moments: FeatureMoments,
    folds: Sequence[int],
    choice: FitChoice,
    target: Target = "all-places",
) -> None:
    """Fit an affine layer in closed form, so that it whitens the features of images in the given folds.

    It is a maximum-likelihood fit with shrinkage.

    Args:
        layer: The layer, for these features and the grid of the choice.
        moments: The moments of the features.
        folds: The numbers of the folds to fit to.
        choice: The grid and the degrees of shrinkage.
        target: What covariances are shrunk towards.
    """
    train = moments.total(list(folds))
    with torch_threads(1):
        gaussian = LocalGaussian.fit(train, choice.grid, choice.shrinkage, choice.mean_shrinkage, target)
        gaussian.set_weights(layer, train.shift)


def _mean_nats(pool: Executor, held_out: Sequence[HeldOut], covariance: int, mean: int) -> float:
    """Return the mean over folds of the held-out negative log-likelihood, for the numbers of two shrinkages."""
    shrinkages = SHRINKAGES[covariance], MEAN_SHRINKAGES[mean]
    values: list[float] = list(pool.map(lambda part: part.nats(*shrinkages), held_out))
    return sum(values) / len(values)


@contextmanager
def each_thread_alone() -> Iterator[Executor]:
    """Yield a thread pool whose tasks compute on a single thread each.

    The pool has as many threads as torch uses.

    The matrices are small: threads that share one of them wait for each other most of the time.
    """
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
