"""Products, inverses and log-dets of matrices, and layers that learn an inverse matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snf_models.bijections.base import SelfNormalizing, Shape

ROWS_IN_BATCH = 64
"""Most rows of matrices that are computed in one batch: far fewer than go wrong, and many calls would take longer."""


def inverses(matrices: Tensor) -> Tensor:
    return _each(torch.linalg.inv, matrices)


def log_abs_dets(matrices: Tensor) -> Tensor:
    """Return log|det| of each matrix, ``(..., C, C) -> (...)``, in nats."""
    return _each(lambda matrix: torch.linalg.slogdet(matrix).logabsdet, matrices)


def solutions(matrices: Tensor, right: Tensor) -> Tensor:
    """Return the solution of A x = b for each matrix, ``(..., C, C)``, and right-hand sides, ``(..., C, N)``."""
    return _each(torch.linalg.solve, matrices, right)


def _each(function: Callable[..., Tensor], *stacks: Tensor) -> Tensor:
    matrices = stacks[0]
    if matrices.shape[-1] <= ROWS_IN_BATCH or matrices.dim() == 2 or not matrices.numel():
        return function(*stacks)
    each = zip(*(stack.flatten(0, -3) for stack in stacks), strict=True)
    results: Tensor = torch.stack([function(*one) for one in each]).unflatten(0, matrices.shape[:-2])
    return results


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """Return the products of a matrix ``(O, C)`` and the channels of images ``(N, C, H, W)`` or vectors ``(N, C)``."""
    if x.dim() == 2:
        # A batched product would read the matrix again for each sample.
        return x @ matrix.T
    return torch.matmul(matrix, x.flatten(2)).view(x.shape[0], len(matrix), *x.shape[2:])


def by_columns(matrix: Tensor) -> Tensor:
    """Return a matrix whose columns lie one after the other in memory."""
    return matrix.T.contiguous().T


@dataclass(frozen=True)
class Matrices:
    """The maps of the channels of each pixel by a matrix ``(C, C)``, or of whole images, ``(D, D)``, if ``flat``.

    Large matrices are fast where the memory of R has its columns one after the other (:func:`by_columns`).
    """

    flat: bool = False

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        return mix_channels(weight, self._columns(x)).view(x.shape)

    def transposed(self, weight: Tensor) -> Tensor:
        return weight.T

    def outer(self, z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        z, x = self._columns(z), self._columns(x)
        # W is stored by rows and R by columns, and so are their gradients: access across them misses the cache.
        return _outer(z, x) if weight.is_contiguous() else _outer(x, z).T

    def counts(self, x: Tensor, weight: Tensor) -> int:
        return 1 if self.flat else x.shape[2:].numel()

    def improved(self, weight: Tensor, inverse_weight: Tensor) -> Tensor:
        return improved_inverse(weight, inverse_weight)

    def _columns(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.flat else x


def improved_inverse(weight: Tensor, inverse_weight: Tensor) -> Tensor:
    """Return 2R - R W R, a Newton-Schulz step for matrices ``(..., C, C)``: the error I - R W = E becomes E²."""
    return 2 * inverse_weight - inverse_weight @ (weight @ inverse_weight)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ left right^T over samples and locations, for two tensors ``(N, C, ...)``, as ``(C, C)``."""
    if left.dim() == 2:
        return left.T @ right
    # einsum would move the samples beside the locations first, which takes longer than the products.
    return torch.bmm(left.flatten(2), right.flatten(2).transpose(1, 2)).sum(0)


class MatrixInverse(SelfNormalizing):
    """Base class of layers z = W x + b that learn a matrix R near W^-1, ``(D, D)``.

    If ``corrected``, training corrects R by :meth:`correct_inverse` in place of learning it.
    """

    inverse_weight: nn.Parameter
    corrected = False

    @property
    def learns_inverse(self) -> bool:
        """Whether gradients or :meth:`correct_inverse` update R; false where R was fixed by hand."""
        return self.corrected or super().learns_inverse

    def set_corrected(self, corrected: bool) -> None:
        """Set whether :meth:`correct_inverse` updates R in place of gradients. An R that is fixed stays fixed."""
        if self.learns_inverse:
            self.corrected = corrected
            self.inverse_weight.requires_grad_(not corrected)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        self.inverse_weight.copy_(torch.linalg.inv(self.weight.double()))

    @torch.no_grad()
    def correct_inverse(self, directions: Tensor) -> None:
        """Make R exact on a subspace, with the least change.

        For directions V, ``(D, K)`` of full rank with K <= D, the matrix R becomes

            R + (S - R Y) (Y^T Y)⁻¹ Y^T    with S = R V and Y = W S

        Of all matrices with R Y = W⁻¹ Y it is the nearest to R in the Frobenius norm: a step of sketch and project
        (Gower and Richtárik 2017, Randomized quasi-Newton updates are linearly convergent matrix inversion algorithms).
        The error R - W⁻¹ loses its part in the span of Y, which is near that of V where W R is near the identity. Then
        K directions of white noise leave 1 - K / D of the square of the error, whatever the condition of W.

        Cost: four products of O(K·D²), and O(K²·D). No term in D³.
        """
        sources = self.inverse_weight @ directions
        images = self.weight @ sources
        basis, triangle = torch.linalg.qr(images)
        missing = sources - self.inverse_weight @ images
        # (Y^T Y)^-1 Y^T = T^-1 Q^T for Y = Q T.
        weights: Tensor = torch.linalg.solve_triangular(triangle, missing, upper=True, left=False)
        self.inverse_weight.addmm_(weights, basis.T)
