"""Local affine layers: a mean for each image position, and a matrix for each cell of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, LogDetGradient, SelfNormalizing, Shape, call, first_derivatives
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


class ExactLocalAffine(Bijection):
    """Affine layer that subtracts a mean from each pixel, then multiplies by the matrix of the pixel's grid cell.

    It is z = W_c (x - m_p) at place p of cell c. The log-determinant Σ_p log|det W_c(p)| is exact.

    A grid of G x G cells lies over the image. Each cell has a C x C matrix W_c, and each place its own mean m_p. The
    log-det is the same for all images. W starts as the identity and m as 0; :mod:`snf_models.features.fit` sets them to
    the Gaussian of greatest likelihood.

    Cost: O(N·C²·H·W) forward; O(C³) a cell for the inverse, and for the log-det and its gradient.

    Args:
        shape: Channels C, height and width of the images.
        grid: Cells along each side, G.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, shape: Shape, grid: int) -> None:
        super().__init__()
        self.shape = shape
        self.grid = grid
        channels, height, width = shape
        cells = cell_count(height, width, grid)
        self.weight = nn.Parameter(torch.eye(channels).repeat(cells, 1, 1))
        self.mean = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x)
        return self.apply_weight(x - self.mean), self.log_abs_det().to(x.dtype).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self._check(z)
        exact = inverses(self.weight)
        return apply_by_cell(exact, z, self.grid) + self.mean, -self.log_abs_det().to(z.dtype).expand(len(z))

    def apply_weight(self, x: Tensor) -> Tensor:
        return apply_by_cell(self.weight, x, self.grid)

    def log_abs_det(self) -> Tensor:
        """Return Σ_p log|det W_c(p)| in nats, the log-det of a whole image. Cost: O(C³) a cell."""
        counts = constant(_sizes, *self.shape[1:], self.grid, device=self.weight.device)
        return (counts * log_abs_dets(self.weight.double())).sum()

    def constant_log_det_at(self, shape: Shape) -> float:
        return float(self.log_abs_det().detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenLocalAffine:
        matrices = self.weight.detach().double().clone()
        mean = self.mean.detach().double().clone()
        return FrozenLocalAffine(matrices, self.learned_matrices(), mean, self.grid)

    def learned_matrices(self) -> Tensor | None:
        """Return float64 copies of the learned inverses, ``(cells, C, C)``, or None."""
        return None

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.shape:
            raise ValueError(f"expected a tensor of shape (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")


class SelfNormalizingLocalAffine(ExactLocalAffine, SelfNormalizing):
    """Affine layer with a matrix for each cell of an image grid, trained without computing determinants.

    The layer z = W_c (x - m_p) learns an inverse R_c of each matrix (Keller et al. 2021, eq. 10-12).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to W uses R^T in place
    of W^-T, as in :class:`~snf_models.bijections.channels.SelfNormalizingConv1x1`. The reconstruction error ||R W x -
    x||² of each sample is stored for the training objective. Evaluation mode is exact. R starts as the identity.

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
        self._check(x)
        product = call(LocalProduct, x - self.mean, self.weight, self.inverse_weight, self.grid, self.gradient)
        z, log_det, error = product
        self.keep_reconstruction_error(error, z)
        return z, log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        self._check(z)
        return self.apply_inverse_weight(z) + self.mean

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        return apply_by_cell(self.inverse_weight, z, self.grid)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        self.inverse_weight.copy_(inverses(self.weight.double()))

    def learned_matrices(self) -> Tensor:
        return self.inverse_weight.detach().double().clone()


class LocalProduct(torch.autograd.Function):
    """W_c x with gradients as in :class:`~snf_models.bijections.matrices.SelfNormalizingProduct`, for each cell."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, grid: int, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = apply_by_cell(weight, x, grid)
        error = apply_by_cell(inverse_weight, y, grid) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.grid, ctx.gradient = grid, gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        grid: int = ctx.grid
        grad_x = apply_by_cell(weight.mT, grad_y, grid)
        sizes = constant(_sizes, *x.shape[2:], grid, device=weight.device, dtype=weight.dtype)
        share = 0.5 * grad_log_det.sum() * sizes[:, None, None]
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        grad_weight = _outer(0.5 * grad_y + apply_by_cell(inverse_weight.mT, weighted_error, grid), x, grid)
        grad_inverse = _outer(weighted_error - 0.5 * grad_x, y, grid)
        better = improved_inverse(weight, inverse_weight) if ctx.gradient == "newton-schulz" else inverse_weight
        return grad_x, grad_weight + share * better.mT, grad_inverse - share * weight.mT, None, None


def _outer(left: Tensor, right: Tensor, grid: int) -> Tensor:
    """Return the sum of left right^T over the samples and the places of each cell, ``(cells, C, C)``."""
    by_place = torch.einsum("nop,ncp->poc", left.flatten(2), right.flatten(2))
    height, width = left.shape[2:]
    total = by_place.new_zeros(cell_count(height, width, grid), *by_place.shape[1:])
    return total.index_add_(0, constant(cell_of_places, height, width, grid, device=left.device), by_place)


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
