"""The convolution nearest to the exact inverse of a convolution, and log-dets with their gradients by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snf_models.bijections.autograd_calls import first_derivatives
from snf_models.bijections.convolution_matrix import (
    ON_CPU,
    FactorisedConvolution,
    LinAlgError,
    Size,
    flip,
    materialise,
    multiplicity,
    nearest_kernel,
    project,
)
from snf_models.devices import constant

LARGEST_FACTOR = 100.0
"""Largest entry of C S_i^-1 and S_i^-1 B. The error of the blocks, in units of the rounding error, grows with its
square: larger ones need pivots."""

Blocks = tuple[Tensor, Tensor, Tensor]


def nearest_inverse(weight: Tensor, image: Size) -> tuple[Tensor, Tensor]:
    """Return a convolution's log-determinant, and the kernel of the convolution nearest to the exact inverse.

    Both are in float64.

    T(w) is the D x D matrix of the convolution for images of D = C·H·W values. The kernel r minimises the Frobenius
    norm of T(r) - T(w)^-1: r_i = <B_i, T(w)^-1> / m_i with B_i = dT(w)/dw_i and the multiplicity m. flip(r)·m is the
    exact gradient of log|det T(w)|.

    r depends on few entries of T(w)^-1, a selected inverse (Takahashi, Fagan and Chin 1973). With the p = kh // 2 rows
    of pixels that a kernel reaches as one block, T(w) is block tridiagonal, and its blocks are the same everywhere: A
    on the diagonal, B above it, C below it. The blocks of G = T(w)^-1 on these three diagonals are, for n = H / p,

        S_1 = A and S_i+1 = A - C S_i^-1 B, so that log|det T(w)| = Σ_i log|det S_i|,
        G_n,n = S_n^-1 and G_i,i = S_i^-1 + S_i^-1 B G_i+1,i+1 C S_i^-1,
        G_i,i+1 = -S_i^-1 B G_i+1,i+1 and G_i+1,i = -G_i+1,i+1 C S_i^-1.

    Cost: O(n·(C·W·p)³), against O(D²·b) for all of T(w)^-1 with half-bandwidth b. Blocks are not pivoted among each
    other, which is accurate as long as C S_i^-1 and S_i^-1 B are small (Demmel, Higham and Schreiber 1995). Where they
    are not, where p does not divide H, and on an accelerator, the whole inverse is computed.

    Args:
        weight: The kernel w, ``(C, C, kh, kw)``.
        image: Height H and width W of the images.

    Returns:
        log|det T(w)| in nats, ``()``, and r, ``(C, C, kh, kw)``.

    Raises:
        torch.linalg.LinAlgError: T(w) is singular.
    """
    weight = weight.detach()
    kernel = (weight.shape[2], weight.shape[3])
    rows = max(1, kernel[0] // 2)
    if weight.device.type in ON_CPU and image[0] % rows == 0:
        log_det, sums, largest = _selected_inverse(weight, image, rows)
        if weight.is_meta or (math.isfinite(log_det) and float(largest) <= LARGEST_FACTOR):
            channels, width = weight.shape[0], image[1]
            entries = torch.cat([block.view(channels, rows, width, channels, rows, width) for block in sums], 4)
            return log_det, nearest_kernel(entries, kernel, image, above=rows)
    return nearest_to_whole_inverse(weight, image)


def nearest_to_whole_inverse(weight: Tensor, image: Size) -> tuple[Tensor, Tensor]:
    """Return a convolution's log-determinant and nearest inverse kernel, computed from the full inverse matrix.

    The values are those of :func:`nearest_inverse`, which is usually faster.

    Cost: O(D²·b) for D values of an image and half-bandwidth b.

    Raises:
        torch.linalg.LinAlgError: T(w) is singular.
    """
    factors = FactorisedConvolution(weight, image)
    log_det = torch.tensor(factors.log_abs_det, dtype=torch.float64, device=weight.device)
    return log_det, project(factors.inverse_images(), (weight.shape[2], weight.shape[3]))


def _selected_inverse(weight: Tensor, image: Size, rows: int) -> tuple[Tensor, Blocks, Tensor]:
    """Return log|det T(w)|, the sums of the blocks of its inverse along three diagonals, and the largest factor.

    The sums are of the blocks below the diagonal, on it and above it, with ``rows`` rows of pixels each. The factor is
    the largest entry of C S_i^-1 and S_i^-1 B.
    """
    channels, width = weight.shape[0], image[1]
    size = channels * rows * width
    # Two blocks of rows have all three kinds of blocks.
    two = materialise(weight, (2 * rows, width)).view(channels, 2, rows * width, channels, 2, rows * width)
    blocks = two.permute(1, 4, 0, 2, 3, 5).reshape(2, 2, size, size)
    diagonal, above, below = blocks[0, 0], blocks[0, 1], blocks[1, 0]
    identity = torch.eye(size, dtype=two.dtype, device=two.device)
    log_det, largest = two.new_zeros(()), two.new_zeros(())
    factors: list[Blocks] = []
    block, schur = identity, diagonal
    for index in range(image[0] // rows):
        if index:
            lower, upper = below @ block, block @ above
            factors.append((block, lower, upper))
            largest = torch.maximum(largest, torch.maximum(lower.abs().max(), upper.abs().max()))
            schur = diagonal - lower @ above
        lu, pivots, _ = torch.linalg.lu_factor_ex(schur)
        log_det = log_det + lu.diagonal().abs().log().sum()
        block = torch.linalg.lu_solve(lu, pivots, identity)
    on_sum, above_sum, below_sum = block.clone(), torch.zeros_like(block), torch.zeros_like(block)
    for inverse, lower, upper in reversed(factors):
        above_diagonal = -upper @ block
        below_sum -= block @ lower
        above_sum += above_diagonal
        block = inverse - above_diagonal @ lower
        on_sum += block
    return log_det, (below_sum, on_sum, above_sum), largest


class LogDet(torch.autograd.Function):
    """PyTorch autograd function for the log-determinant of a convolution, in float64.

    It is log|det T(w)| for the kernel w. Its gradient is flip(r) m for the nearest inverse r and the multiplicity m of
    :func:`nearest_inverse`.

    Its outputs are the log-determinant, ``()``, and the gradient with respect to w. If T(w) is singular, they are -inf
    and not a number.
    """

    @staticmethod
    def forward(weight: Tensor, image: Size, inverse_of: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the log-determinant of a convolution and its gradient with respect to the kernel.

        Args:
            weight: The kernel w, ``(C, C, kh, kw)``.
            image: Height and width of the images.
            inverse_of: :func:`nearest_inverse`, or another function of the same arguments and values.
        """
        try:
            log_det, inverse = inverse_of(weight, image)
        except LinAlgError:
            return weight.new_tensor(-math.inf, dtype=torch.float64), torch.full_like(weight, math.nan)
        kernel = (weight.shape[2], weight.shape[3])
        taps = constant(multiplicity, kernel, image, device=inverse.device, dtype=inverse.dtype)
        return log_det, (flip(inverse) * taps).to(weight)

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save the log-determinant's gradient, which :meth:`forward` computed, for the backward pass."""
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the loss gradient for the kernel of a convolution, from the loss gradient for the log-determinant."""
        (of_weight,) = ctx.saved_tensors
        return gradients[0].to(of_weight) * of_weight, None, None
