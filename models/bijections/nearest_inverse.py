"""The convolution nearest to the exact inverse of a convolution, without computing the whole inverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.bijections.conv_functional import FactorisedConvolution, Size, materialise, multiplicity, project
from models.devices import constant

LARGEST_FACTOR = 100.0
"""Largest entry of C S_i^-1 and S_i^-1 B. The error of the blocks, in units of the rounding error, grows with its
square: larger ones need pivots."""

ON_CPU = {"cpu", "meta"}
"""Types of device on which many small factorisations are faster than a large one."""

Blocks = tuple[Tensor, Tensor, Tensor]


def nearest_inverse(weight: Tensor, image: Size) -> tuple[Tensor, Tensor]:
    """Return the log-determinant of a convolution and the kernel nearest to its inverse, in float64.

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
            return log_det, _project(sums, kernel, image, rows)
    factors = FactorisedConvolution(weight, image)
    log_det = torch.tensor(factors.log_abs_det, dtype=torch.float64, device=weight.device)
    return log_det, project(factors.inverse_images(), kernel)


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


def _project(sums: Blocks, kernel: Size, image: Size, rows: int) -> Tensor:
    """Return the kernel nearest to the inverse whose blocks have these sums along the three diagonals."""
    channels = sums[0].shape[0] // (rows * image[1])
    # By output channel, row and column, then by input channel, row (of three blocks) and column.
    entries = torch.cat([block.view(channels, rows, image[1], channels, rows, image[1]) for block in sums], 4)
    taps = [
        entries.diagonal(rows + row - kernel[0] // 2, 1, 4).diagonal(column - kernel[1] // 2, 1, 3).sum((2, 3))
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    counts = constant(multiplicity, kernel, image, device=entries.device).clamp(min=1)
    return torch.stack(taps, -1).view(channels, channels, *kernel) / counts
