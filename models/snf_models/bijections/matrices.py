"""Products, inverses and log-dets of matrices, and gradients by a learned inverse matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from snf_models.bijections.base import LogDetGradient, SelfNormalizing, Shape, call, first_derivatives

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


class SelfNormalizingProduct(torch.autograd.Function):
    """PyTorch autograd function of a matrix product whose gradients use a learned approximate inverse.

    It is W x, and the gradient of log|det W| is computed with the learned R ≈ W⁻¹ (Keller et al. 2021).

    The objective is the mean of two log-likelihoods, of the flow by W and of its learned inverse by R, minus the
    weighted reconstruction error (eq. 3). Its gradients need no inverse of W. With m = H·W locations (1 for vectors),
    incoming gradients δ of y, c_n of the log-det and w_n of the reconstruction error of sample n, e = R y - x and
    δx = W^T δ, they are, up to sign,

        dW = ½ δ x^T + ½ m Σc R^T + 2 Σ w_n R^T e x^T
        dR = -½ δx y^T - ½ m Σc W^T + 2 Σ w_n e y^T

    The gradient of x is δx: it is not halved, and the reconstruction error has no gradient with respect to x. The cost
    is that of six products: W x, R y, W^T δ, R^T e, and one each for dW and dR. Large matrices are fast where the
    memory of R has its columns one after the other (:func:`by_columns`).

    If ``gradient`` is "newton-schulz", 2R - R W R stands in for R in the term of the log-det of dW. This is not in the
    paper and costs two products of O(C³) more.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = mix_channels(weight, x)
        error = mix_channels(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        grad_x = mix_channels(weight.T, grad_y)
        log_det_share = 0.5 * x.shape[2:].numel() * grad_log_det.sum()
        weighted_error = 2 * grad_error.view(-1, *[1] * (x.dim() - 1)) * error
        grad_weight = _outer(torch.add(mix_channels(inverse_weight.T, weighted_error), grad_y, alpha=0.5), x)
        better = improved_inverse(weight, inverse_weight) if ctx.gradient == "newton-schulz" else inverse_weight
        # W is stored by rows and R by columns, and so are their gradients: access across them misses the cache.
        grad_weight.addcmul_(log_det_share, better.T)
        if not ctx.needs_input_grad[2]:
            return grad_x, grad_weight, None, None
        grad_inverse = _outer(y, torch.sub(weighted_error, grad_x, alpha=0.5)).T
        grad_inverse.addcmul_(log_det_share, weight.T, value=-1)
        return grad_x, grad_weight, grad_inverse, None


def improved_inverse(weight: Tensor, inverse_weight: Tensor) -> Tensor:
    """Return 2R - R W R, a Newton-Schulz step for matrices ``(..., C, C)``: the error I - R W = E becomes E²."""
    return 2 * inverse_weight - inverse_weight @ (weight @ inverse_weight)


def self_normalizing_product(
    x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
) -> tuple[Tensor, Tensor, Tensor]:
    """Return W x, log-dets of value 0 with their gradients, and errors ||R W x - x||², ``(N,)`` each."""
    outputs: tuple[Tensor, Tensor, Tensor] = call(SelfNormalizingProduct, x, weight, inverse_weight, gradient)
    return outputs


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ left right^T over samples and locations, for two tensors ``(N, C, ...)``, as ``(C, C)``."""
    if left.dim() == 2:
        return left.T @ right
    # einsum would move the samples beside the locations first, which takes longer than the products.
    return torch.bmm(left.flatten(2), right.flatten(2).transpose(1, 2)).sum(0)


class LinearMaps(Protocol):
    """A kind of linear maps W x, whose learned inverses R are of the same kind."""

    def apply(self, weight: Tensor, x: Tensor) -> Tensor: ...

    def transposed(self, weight: Tensor) -> Tensor: ...

    def outer(self, z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of Σ_n <W x_n, z_n> in W."""
        ...

    def counts(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return at how many places of an image each weight stands, broadcast over the weights."""
        ...

    def improved(self, weight: Tensor, inverse_weight: Tensor) -> Tensor:
        """Return a Newton-Schulz step from R."""
        ...


class SelfNormalizingMap(torch.autograd.Function):
    """:class:`SelfNormalizingProduct` for other kinds of linear maps.

    With m, the number of places of each weight, and z ⊗ x, the gradient of <W x, z> with respect to W, the gradients
    are

        dW = (½ δ + 2 v R^T e) ⊗ x + ½ Σc m·R^T
        dR = (2 v e - ½ δx) ⊗ y - ½ Σc m·W^T

    for the reconstruction errors v_n of the samples.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient, maps: LinearMaps
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = maps.apply(weight, x)
        error = maps.apply(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient, ctx.maps = gradient, maps
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        maps: LinearMaps = ctx.maps
        grad_x = maps.apply(maps.transposed(weight), grad_y)
        share = 0.5 * grad_log_det.sum() * maps.counts(x, weight)
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        back = maps.apply(maps.transposed(inverse_weight), weighted_error)
        better = maps.improved(weight, inverse_weight) if ctx.gradient == "newton-schulz" else inverse_weight
        grad_weight = maps.outer(0.5 * grad_y + back, x, weight) + share * maps.transposed(better)
        grad_inverse = maps.outer(weighted_error - 0.5 * grad_x, y, weight) - share * maps.transposed(weight)
        return grad_x, grad_weight, grad_inverse, None, None


def self_normalizing_map(
    x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient, maps: LinearMaps
) -> tuple[Tensor, Tensor, Tensor]:
    """Return as :func:`self_normalizing_product` for other kinds of linear maps."""
    outputs: tuple[Tensor, Tensor, Tensor] = call(SelfNormalizingMap, x, weight, inverse_weight, gradient, maps)
    return outputs


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
