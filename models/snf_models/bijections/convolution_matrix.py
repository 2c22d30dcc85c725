"""Linear algebra of convolutions: their matrices, LU factors, transposes, products and nearest inverses.

T(w) is the matrix of the convolution with kernel w, ``(O, C, kh, kw)`` with odd kh and kw, stride 1 and zero padding
that keeps the image size: T(w) vec(x) = vec(w * x), where vec(x) is ``x.flatten(1)``, in the order (channel, row,
column). D = C·H·W is the number of values of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor
from torch.nn.grad import conv2d_weight

from snf_models.bijections.base import first_derivatives
from snf_models.bijections.devices import constant

Size = tuple[int, int]  # height and width
ON_CPU = {"cpu"}  # types of device on which many small factorisations are faster than a large one
LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
"""Raised where a matrix has no inverse. PyTorch declares no type for it."""


def check_kernel(kernel: Size) -> None:
    """Raise ``ValueError`` unless both sides of a kernel are odd and positive."""
    if min(kernel) < 1 or kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        raise ValueError(f"expected a kernel with odd sides, got {kernel[0]}x{kernel[1]}")


def same_padding(weight: Tensor) -> Size:
    """Return the vertical and horizontal padding that keeps the image size."""
    return weight.shape[2] // 2, weight.shape[3] // 2


def convolve(weight: Tensor, x: Tensor) -> Tensor:
    """Return w * x, ``(N, O, H, W)``, for w ``(O, C, kh, kw)``, with zero padding that keeps the size."""
    return F.conv2d(x, weight, padding=same_padding(weight))


def flip(weight: Tensor) -> Tensor:
    """Return the kernel of the transposed convolution, ``(C, O, kh, kw)``: T(flip(w)) = T(w)^T."""
    return weight.transpose(0, 1).flip(2, 3)


def correlate(x: Tensor, z: Tensor, kernel: Size) -> Tensor:
    """Return the gradient of Σ_n <w * x_n, z_n> in w, ``(O, C, *kernel)``: Σ_n <B_i x_n, z_n> for B_i = dT(w)/dw_i."""
    shape = (z.shape[1], x.shape[1], *kernel)
    gradient: Tensor = conv2d_weight(x, shape, z, padding=(kernel[0] // 2, kernel[1] // 2))
    return gradient


def compose(outer: Tensor, inner: Tensor, *, crop: bool = False) -> Tensor:
    """Return the kernel of ``inner`` followed by ``outer``, as away from the border.

    Its sides are k_outer + k_inner - 1. With ``crop`` only the middle is returned, of sides k_inner - k_outer + 1.
    Cost: O(O·M·C·k⁴) for M channels between the two.
    """
    height, width = outer.shape[2:]
    padding = (0, 0) if crop else (height - 1, width - 1)
    return F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=padding).transpose(0, 1)


@lru_cache(maxsize=256)
def multiplicity(kernel: Size, image: Size) -> Tensor:
    """Return m, float64 ``(kh, kw)``: to how many output pixels each tap contributes a pixel inside the image.

    m[a, b] = c_H(a)·c_W(b) with c_H(a) = #{u : 0 <= u < H, 0 <= u + a - kh // 2 < H} (Keller et al. 2021, 4.2, where m
    is the convolution of ones with ones). The tensor is cached and must not be modified.
    """
    # Kept for all callers, some of which make their tensors on the meta device.
    rows, columns = (
        torch.tensor([max(0, side - abs(tap - taps // 2)) for tap in range(taps)], dtype=torch.float64, device="cpu")
        for taps, side in zip(kernel, image, strict=True)
    )
    return torch.outer(rows, columns)


def identity_images(channels: int, image: Size, device: torch.device) -> Tensor:
    """Return the D = C·H·W unit vectors as images, float64 ``(D, C, H, W)``."""
    dimensions = channels * math.prod(image)
    return torch.eye(dimensions, dtype=torch.float64, device=device).view(dimensions, channels, *image)


def materialise(weight: Tensor, image: Size) -> Tensor:
    """Return T(w), float64 ``(D, D)`` and differentiable. Cost: O(D·C²·kh·kw·H·W)."""
    units = identity_images(weight.shape[1], image, weight.device)
    return convolve(weight.double(), units).flatten(1).T


def project(inverse_images: Tensor, kernel: Size) -> Tensor:
    """Return the kernel whose matrix is nearest (Frobenius norm) to M, given by columns as images, ``(D, C, H, W)``.

    It is r_i = <B_i, M> / m_i with B_i = dT(w)/dw_i and the multiplicity m. For M = T(w)^-1, flip(r)·m is the exact
    gradient of log|det T(w)|.
    """
    channels, image = inverse_images.shape[1], (inverse_images.shape[2], inverse_images.shape[3])
    entries = inverse_images.reshape(channels, *image, channels, *image).permute(3, 4, 5, 0, 1, 2)
    return nearest_kernel(entries, kernel, image)


def nearest_kernel(entries: Tensor, kernel: Size, image: Size, above: int = 0) -> Tensor:
    """Return the kernel whose matrix is nearest in the Frobenius norm to a matrix of given entries.

    ``entries`` are by output channel, row and column, then by input channel, row and column: all of the matrix, or sums
    over the positions of a window of rows, ``(C, h, W, C, h', W)``, with ``above`` input rows before its first output
    row.
    """
    channels = entries.shape[0]
    # A tap reads a diagonal of the rows and one of the columns; where it lies outside the image at every location, they
    # are empty and the tap is 0.
    sums = [
        entries.diagonal(above + row - kernel[0] // 2, 1, 4).diagonal(column - kernel[1] // 2, 1, 3).sum((2, 3))
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    counts = constant(multiplicity, kernel, image, device=entries.device).clamp(min=1)
    return torch.stack(sums, -1).view(channels, channels, *kernel) / counts


def half_bandwidth(weight: Tensor, width: int) -> int:
    """Return b such that T(w) is 0 at (i, j) if |i - j| > b, in the order (row, column, channel)."""
    channels, padding = weight.shape[0], same_padding(weight)
    return channels * (padding[0] * width + padding[1]) + channels - 1


def band(weight: Tensor, image: Size) -> NDArray[np.float64]:
    """Return T(w) in the band storage of LAPACK, float64 ``(3b + 1, D)``, in the order (row, column, channel).

    Entry (i, j) is element [2b + i - j, j] for half-bandwidth b. Cost: O(C²·kh·kw·H·W).
    """
    taps = weight.detach().double().cpu().numpy()
    channels, (height, width) = taps.shape[0], image
    half = half_bandwidth(weight, width)
    storage = np.zeros((3 * half + 1, channels * height * width), order="F")
    out, into = np.mgrid[:channels, :channels].reshape(2, -1, 1)
    for a in range(taps.shape[2]):
        for b in range(taps.shape[3]):
            down, right = a - taps.shape[2] // 2, b - taps.shape[3] // 2
            # The input locations that this tap reads for some output location.
            rows = np.arange(max(0, down), min(height, height + down))
            columns = np.arange(max(0, right), min(width, width + right))
            locations = (rows[:, None] * width + columns).reshape(1, -1)
            offset = out - into - channels * (down * width + right)
            storage[2 * half + offset, locations * channels + into] = taps[:, :, a, b].reshape(-1, 1)
    return storage


class FactorisedConvolution:
    """LU factors of T(w) in float64, which give log|det| and inverses. Later changes of w have no effect.

    If the band is narrow, 3b <= D for half-bandwidth b, the factors are banded (LAPACK ``gbtrf``): O(D·b²), and O(D·b)
    a solve. Otherwise, or if w is on an accelerator, they are dense: O(D³), and O(D²) a solve. ``log_abs_det`` is in
    nats, -inf if T(w) is singular.
    """

    def __init__(self, weight: Tensor, image: Size) -> None:
        self.channels, self.image, self.device = weight.shape[0], image, weight.device
        self.half_bandwidth = half_bandwidth(weight, image[1])
        dimensions = self.channels * math.prod(image)
        self.banded = weight.device.type in ON_CPU and 3 * self.half_bandwidth <= dimensions
        if self.banded:
            half = self.half_bandwidth
            self._lu, self._swaps, _ = lapack.dgbtrf(band(weight, image), half, half, overwrite_ab=True)
            # LAPACK counts columns first: transposed this is no copy.
            diagonal = torch.from_numpy(self._lu.T)[:, 2 * half]
        else:
            self._factors = torch.linalg.lu_factor_ex(materialise(weight.detach(), image))
            diagonal = self._factors.LU.diagonal()
        self.log_abs_det = float(diagonal.abs().log().sum())

    def solve(self, z: Tensor, side: Literal["matrix", "transpose"] = "matrix") -> Tensor:
        """Return T(w)^-1 z, or T(w)^-T z for ``side`` "transpose"; raise ``LinAlgError`` if T(w) is singular."""
        if self.log_abs_det == -math.inf:
            raise LinAlgError("the convolution has no inverse: the matrix of its kernel is singular")
        right = z.detach().double()
        if not self.banded:
            dense: Tensor = torch.linalg.lu_solve(
                self._factors.LU, self._factors.pivots, right.flatten(1).T, adjoint=side == "transpose"
            )
            return dense.T.reshape(z.shape).to(z.dtype)
        # LAPACK stores matrices by columns: a row for each sample here is a column for each right-hand side there.
        rows, half = right.permute(0, 2, 3, 1).flatten(1).cpu().numpy(), self.half_bandwidth
        transposed = int(side == "transpose")
        solution, _ = lapack.dgbtrs(self._lu, half, half, rows.T, self._swaps, trans=transposed)
        x = torch.from_numpy(solution.T).view(len(z), *self.image, self.channels)
        return x.permute(0, 3, 1, 2).contiguous().to(z)

    def inverse_images(self) -> Tensor:
        """Return T(w)^-1, each column as an image, float64 ``(D, C, H, W)``."""
        return self.solve(identity_images(self.channels, self.image, self.device))


LARGEST_FACTOR = 100.0
"""Largest entry of C S_i^-1 and S_i^-1 B. The error of the blocks, in units of the rounding error, grows with its
square: larger ones need pivots."""

Blocks = tuple[Tensor, Tensor, Tensor]


def nearest_inverse(weight: Tensor, image: Size) -> tuple[Tensor, Tensor]:
    """Return log|det T(w)| in nats, ``()``, and the kernel r nearest to the exact inverse, both in float64.

    r minimises the Frobenius norm of T(r) - T(w)^-1: r_i = <B_i, T(w)^-1> / m_i with B_i = dT(w)/dw_i and the
    multiplicity m. flip(r)·m is the exact gradient of log|det T(w)|.

    r depends on few entries of T(w)^-1, a selected inverse (Takahashi, Fagan and Chin 1973). With the p = kh // 2 rows
    of pixels that a kernel reaches as one block, T(w) is block tridiagonal, and its blocks are the same everywhere: A
    on the diagonal, B above it, C below it. The blocks of G = T(w)^-1 on these three diagonals are, for n = H / p,

        S_1 = A and S_i+1 = A - C S_i^-1 B, so that log|det T(w)| = Σ_i log|det S_i|,
        G_n,n = S_n^-1 and G_i,i = S_i^-1 + S_i^-1 B G_i+1,i+1 C S_i^-1,
        G_i,i+1 = -S_i^-1 B G_i+1,i+1 and G_i+1,i = -G_i+1,i+1 C S_i^-1.

    Cost: O(n·(C·W·p)³), against O(D²·b) for all of T(w)^-1 with half-bandwidth b. Blocks are not pivoted among each
    other, which is accurate as long as C S_i^-1 and S_i^-1 B are small (Demmel, Higham and Schreiber 1995). Where they
    are not, where p does not divide H, and on an accelerator, the whole inverse is computed.

    Raises:
        torch.linalg.LinAlgError: T(w) is singular.
    """
    weight = weight.detach()
    kernel = (weight.shape[2], weight.shape[3])
    rows = max(1, kernel[0] // 2)
    if weight.device.type in ON_CPU and image[0] % rows == 0:
        log_det, sums, largest = _selected_inverse(weight, image, rows)
        if math.isfinite(log_det) and float(largest) <= LARGEST_FACTOR:
            channels, width = weight.shape[0], image[1]
            entries = torch.cat([block.view(channels, rows, width, channels, rows, width) for block in sums], 4)
            return log_det, nearest_kernel(entries, kernel, image, above=rows)
    return nearest_to_whole_inverse(weight, image)


def nearest_to_whole_inverse(weight: Tensor, image: Size) -> tuple[Tensor, Tensor]:
    """Return the values of :func:`nearest_inverse` by the whole inverse. Cost: O(D²·b)."""
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
    """log|det T(w)| in float64, ``()``, and its gradient flip(r) m in w; -inf and not a number if T(w) is singular."""

    @staticmethod
    def forward(weight: Tensor, image: Size, inverse_of: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Compute by ``inverse_of``, which is :func:`nearest_inverse` or a function alike."""
        try:
            log_det, inverse = inverse_of(weight, image)
        except LinAlgError:
            return weight.new_tensor(-math.inf, dtype=torch.float64), torch.full_like(weight, math.nan)
        kernel = (weight.shape[2], weight.shape[3])
        taps = constant(multiplicity, kernel, image, device=inverse.device, dtype=inverse.dtype)
        return log_det, (flip(inverse) * taps).to(weight)

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (of_weight,) = ctx.saved_tensors
        return gradients[0].to(of_weight) * of_weight, None, None
