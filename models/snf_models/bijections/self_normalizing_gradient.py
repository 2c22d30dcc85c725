"""Matrix products whose gradients use a learned inverse matrix, for vectors and for images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snf_models.bijections.autograd_calls import call, first_derivatives
from snf_models.bijections.base import LogDetGradient


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply the channels of each pixel by a matrix.

    Args:
        matrix: The matrix, ``(O, C)``.
        x: Images ``(N, C, H, W)`` or vectors ``(N, C)``.

    Returns:
        The product, ``(N, O, H, W)`` or ``(N, O)``.
    """
    if x.dim() == 2:
        # A batched product would read the matrix again for each sample.
        return x @ matrix.T
    return torch.matmul(matrix, x.flatten(2)).view(x.shape[0], len(matrix), *x.shape[2:])


def by_columns(matrix: Tensor) -> Tensor:
    """Return the given matrix, stored in column-major order in memory.

    The matrix is ``(O, C)``. Its columns, not its rows, lie one after the other.
    """
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
        """Return W x and, for each sample, a log-determinant (value 0, gradients only) and a reconstruction error.

        The product is y = W x, and the error is ||R y - x||² for the learned R ≈ W⁻¹. Of the log-determinant only the
        gradient is used.
        """
        y = mix_channels(weight, x)
        error = mix_channels(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Return the loss gradients with respect to the inputs, the matrix and its learned inverse.

        The gradient of the learned inverse is None if it is not trained.

        No matrix is inverted. None stands for the argument ``gradient`` of :meth:`forward`.
        """
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
    """Return an approximate inverse of a matrix, improved by one Newton-Schulz iteration.

    Returns 2R - R W R for the matrix W and its approximate inverse R. The error I - R W = E becomes E².

    Args:
        weight: The matrix W, or one matrix a cell, ``(..., C, C)``.
        inverse_weight: The approximate inverse R, in the same shape.
    """
    return 2 * inverse_weight - inverse_weight @ (weight @ inverse_weight)


def self_normalizing_product(
    x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
) -> tuple[Tensor, Tensor, Tensor]:
    """Return W x and, for each sample, a log-determinant (value 0, gradients only) and a reconstruction error.

    A reconstruction error tells how far the learned inverse is from restoring an input.

    Args:
        x: Images ``(N, C, H, W)`` or vectors ``(N, C)``.
        weight: The matrix W, ``(C, C)``.
        inverse_weight: The learned inverse R, ``(C, C)``.
        gradient: The approximation of the inverse in the gradient of the log-det.

    Returns:
        W x, a log-det of value 0, ``(N,)``, and the reconstruction error ||R W x - x||², ``(N,)``.
    """
    outputs: tuple[Tensor, Tensor, Tensor] = call(SelfNormalizingProduct, x, weight, inverse_weight, gradient)
    return outputs


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ left right^T over samples and locations, for two tensors ``(N, C, ...)``, as ``(C, C)``."""
    if left.dim() == 2:
        return left.T @ right
    # einsum would move the samples beside the locations first, which takes longer than the products.
    return torch.bmm(left.flatten(2), right.flatten(2).transpose(1, 2)).sum(0)
