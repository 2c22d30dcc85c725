"""Local affine layers: a mean for each image position, and a matrix for each cell of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snf_models.bijections.base import LinearLayer, SelfNormalizing, Shape, check_shape
from snf_models.bijections.devices import constant
from snf_models.bijections.frozen import Inverse
from snf_models.bijections.matrices import improved_inverse, inverses, log_abs_dets


@lru_cache(maxsize=64)
def cell_of_places(height: int, width: int, grid: int) -> Tensor:
    """Return the cell of each place in a grid of at most ``grid`` x ``grid`` cells, ``(height * width,)``, by rows.

    >>> cell_of_places(2, 4, 2).tolist(), cell_of_places(2, 2, 8).tolist()
    ([0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3])
    """
    rows, columns = min(grid, height), min(grid, width)
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return _indices((row[:, None] * columns + column).ravel())


def cell_count(height: int, width: int, grid: int) -> int:
    return min(grid, height) * min(grid, width)


@lru_cache(maxsize=64)
def places_of_cells(height: int, width: int, grid: int) -> tuple[Tensor, Tensor]:
    """Return a table of the places of each cell, ``(cells, most)``, and the index of each place in it, ``(places,)``.

    Cells with fewer than ``most`` places repeat their first one, so that one batched product serves all cells.
    """
    cells = cell_of_places(height, width, grid).numpy()
    members = [np.flatnonzero(cells == cell) for cell in range(cell_count(height, width, grid))]
    most = max(map(len, members))
    table = np.stack([np.concatenate([places, np.repeat(places[:1], most - len(places))]) for places in members])
    position = np.empty(len(cells), dtype=np.int64)
    for cell, places in enumerate(members):
        position[places] = cell * most + np.arange(len(places))
    return _indices(table), _indices(position)


def _places(height: int, width: int, grid: int) -> Tensor:
    return places_of_cells(height, width, grid)[0]


def _position(height: int, width: int, grid: int) -> Tensor:
    return places_of_cells(height, width, grid)[1]


def _sizes(height: int, width: int, grid: int) -> Tensor:
    """Return the number of places of each cell, ``(cells,)``."""
    return torch.bincount(cell_of_places(height, width, grid), minlength=cell_count(height, width, grid))


def _indices(numbers: NDArray[np.int64]) -> Tensor:
    # They are kept for all callers, some of which run on the meta device, in inference mode or with gradients.
    with torch.inference_mode(False):
        return torch.from_numpy(numbers)


def apply_by_cell(matrices: Tensor, x: Tensor, grid: int) -> Tensor:
    """Multiply the channels at each place of images ``(N, C, H, W)`` by the matrix of its cell, ``(cells, C, C)``."""
    images, channels, height, width = x.shape
    table, position = (constant(part, height, width, grid, device=x.device) for part in (_places, _position))
    gathered = x.flatten(2)[:, :, table.flatten()].view(images, channels, *table.shape)
    columns = gathered.permute(2, 1, 3, 0).reshape(len(table), channels, table.shape[1] * images)
    product = torch.bmm(matrices, columns).view(len(table), channels, table.shape[1], images)
    flat = product.permute(3, 1, 0, 2).reshape(images, channels, table.numel())
    return flat[:, :, position].view(x.shape)


class ExactLocalAffine(LinearLayer):
    """Affine layer z = W_c (x - m_p) at place p of cell c, with the exact log-det Σ_p log|det W_c(p)|.

    A grid of G x G cells lies over the image. Each cell has a C x C matrix W_c, and each place its own mean m_p. W
    starts as the identity and m as 0; :mod:`snf_models.features.fit` sets them to the Gaussian of greatest likelihood.

    Cost: O(N·C²·H·W) forward; O(C³) a cell for the inverse, and for the log-det and its gradient.

    Args:
        shape: Channels C, height and width of the images.
        grid: Cells along each side, G.
    """

    def __init__(self, shape: Shape, grid: int) -> None:
        super().__init__()
        self.shape = shape
        self.grid = grid
        self.maps = LocalMaps(grid)
        channels, height, width = shape
        cells = cell_count(height, width, grid)
        self.weight = nn.Parameter(torch.eye(channels).repeat(cells, 1, 1))
        self.mean = nn.Parameter(torch.zeros(shape))

    def check(self, x: Tensor) -> None:
        check_shape(x, self.shape)

    def transform(self, x: Tensor) -> Tensor:
        return self.apply_weight(x - self.mean)

    def solve(self, z: Tensor) -> Tensor:
        return apply_by_cell(inverses(self.weight), z, self.grid) + self.mean

    def log_abs_det(self, shape: Shape) -> Tensor:
        """Return Σ_p log|det W_c(p)| in nats. Cost: O(C³) a cell."""
        counts = constant(_sizes, *shape[1:], self.grid, device=self.weight.device)
        return (counts * log_abs_dets(self.weight.double())).sum()

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenLocalAffine:
        matrices = self.weight.detach().double().clone()
        mean = self.mean.detach().double().clone()
        return FrozenLocalAffine(matrices, self.learned_matrices(), mean, self.grid)

    def learned_matrices(self) -> Tensor | None:
        """Return float64 copies of the learned inverses, ``(cells, C, C)``, or None."""
        return None


class SelfNormalizingLocalAffine(SelfNormalizing, ExactLocalAffine):
    """Affine layer z = W_c (x - m_p) that learns an inverse R_c of each matrix (Keller et al. 2021, eq. 10-12).

    Training mode computes no determinant, as in :class:`~snf_models.bijections.channels.SelfNormalizingConv1x1`.
    Evaluation mode is exact. R starts as the identity.

    Cost of a training step: six products of O(N·C²·H·W), no term in C³.

    Args:
        shape: Channels C, height and width of the images.
        grid: Cells along each side, G.
    """

    def __init__(self, shape: Shape, grid: int) -> None:
        super().__init__(shape, grid)
        self.inverse_weight = nn.Parameter(self.weight.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return super().forward(x)
        self.check(x)
        return self.learning_product(x - self.mean)

    def approximate_inverse(self, z: Tensor) -> Tensor:
        self.check(z)
        return self.apply_inverse_weight(z) + self.mean

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        self.inverse_weight.copy_(inverses(self.weight.double()))

    def learned_matrices(self) -> Tensor:
        return self.inverse_weight.detach().double().clone()


@dataclass(frozen=True)
class LocalMaps:
    """The linear maps x -> W_c x of the cells of a grid, for matrices ``(cells, C, C)``."""

    grid: int

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        return apply_by_cell(weight, x, self.grid)

    def transposed(self, weight: Tensor) -> Tensor:
        return weight.mT

    def outer(self, z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        by_place = torch.einsum("nop,ncp->poc", z.flatten(2), x.flatten(2))
        cells = constant(cell_of_places, *z.shape[2:], self.grid, device=z.device)
        return by_place.new_zeros(weight.shape).index_add_(0, cells, by_place)

    def counts(self, x: Tensor, weight: Tensor) -> Tensor:
        return constant(_sizes, *x.shape[2:], self.grid, device=weight.device, dtype=weight.dtype)[:, None, None]

    def improved(self, weight: Tensor, inverse_weight: Tensor) -> Tensor:
        return improved_inverse(weight, inverse_weight)


@dataclass(frozen=True)
class FrozenLocalAffine:
    """Frozen form of a local affine layer z = W_c (x - m_p)."""

    matrices: Tensor
    learned_map: Tensor | None
    mean: Tensor
    grid: int

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return apply_by_cell(self.matrices, x - self.mean, self.grid), None

    @cached_property
    def inverse_matrices(self) -> Tensor:
        return inverses(self.matrices)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        learned = self.learned_map if inverse == "learned" else None
        return apply_by_cell(self.inverse_matrices if learned is None else learned, z, self.grid) + self.mean
