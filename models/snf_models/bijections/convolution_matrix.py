"""Linear algebra of convolutions: their matrices, LU factors, transposes, products and projections.

T(w) is the matrix of the convolution with kernel w, ``(O, C, kh, kw)`` with odd kh and kw, stride 1 and zero padding
that keeps the image size: T(w) vec(x) = vec(w * x), where vec(x) is ``x.flatten(1)``, in the order (channel, row,
column). D = C·H·W is the number of values of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor
from torch.nn.grad import conv2d_weight
from torch.utils.flop_counter import register_flop_formula

from snf_models.devices import constant

Size = tuple[int, int]
"""Height and width."""
ON_CPU = {"cpu", "meta"}
"""Types of device on which many small factorisations are faster than a large one; "meta" counts the work of a CPU."""
LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
"""Raised where a matrix has no inverse. PyTorch declares no type for it."""


def check_kernel(kernel: Size) -> None:
    """Raise ``ValueError`` unless the height and the width of a convolution kernel are both odd and positive."""
    if min(kernel) < 1 or kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        raise ValueError(f"expected a kernel with odd sides, got {kernel[0]}x{kernel[1]}")


def same_padding(weight: Tensor) -> Size:
    """Return the zero padding that keeps the image size in a convolution with a given kernel.

    It is (vertical, horizontal), in pixels on each side.

    Args:
        weight: The kernel, ``(O, C, kh, kw)`` with odd kh and kw.
    """
    return weight.shape[2] // 2, weight.shape[3] // 2


def convolve(weight: Tensor, x: Tensor) -> Tensor:
    """Return images convolved with a kernel, zero-padded so that the image size stays the same.

    The images ``x`` are ``(N, C, H, W)``, the kernel is ``(O, C, kh, kw)``, and the result is ``(N, O, H, W)``.

    Cost: O(N·O·C·kh·kw·H·W).
    """
    return F.conv2d(x, weight, padding=same_padding(weight))


def flip(weight: Tensor) -> Tensor:
    """Return the kernel of the transposed convolution: channel axes swapped, height and width mirrored.

    The result has the shape ``(C, O, kh, kw)`` for a kernel w of shape ``(O, C, kh, kw)``.

    T(flip(w)) = T(w)^T for the convolution matrix T(w).
    """
    return weight.transpose(0, 1).flip(2, 3)


def correlate(x: Tensor, z: Tensor, kernel: Size) -> Tensor:
    """Return the gradient with respect to a convolution kernel, given the inputs and the output gradients.

    It is the gradient of the inner products Σ_n <w * x_n, z_n> with respect to the kernel w, for images x_n and z_n.

    Element i is Σ_n <B_i x_n, z_n> with B_i = dT(w)/dw_i. Cost: that of :func:`convolve`.

    Args:
        x: Inputs, ``(N, C, H, W)``.
        z: Images in the shape of the outputs, ``(N, O, H, W)``.
        kernel: Height and width of w.

    Returns:
        The gradient, ``(O, C, kh, kw)``.
    """
    shape = (z.shape[1], x.shape[1], *kernel)
    gradient: Tensor = conv2d_weight(x, shape, z, padding=(kernel[0] // 2, kernel[1] // 2))
    return gradient


def compose(outer: Tensor, inner: Tensor, *, crop: bool = False) -> Tensor:
    """Return one kernel that combines two successive convolutions.

    It acts on images as ``inner`` followed by ``outer`` does, except near the border.

    Its sides are k_outer + k_inner - 1. With ``crop`` only the middle is returned, of sides k_inner - k_outer + 1.
    Cost: O(O·M·C·k⁴) for M channels between the two.

    Args:
        outer: The kernel that is applied second, ``(O, M, k, k)``.
        inner: The kernel that is applied first, ``(M, C, k, k)``.
        crop: Whether to return only the middle.
    """
    height, width = outer.shape[2:]
    padding = (0, 0) if crop else (height - 1, width - 1)
    return F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=padding).transpose(0, 1)


@lru_cache(maxsize=256)
def multiplicity(
    kernel: Size, image: Size, stride: Size = (1, 1), padding: Size | None = None, dilation: Size = (1, 1)
) -> Tensor:
    """Return how many output pixels each element of a convolution kernel contributes to, for a given image size.

    Only output pixels for which the element reads inside the image count. The result is float64 ``(kh, kw)``.

    For a pair of channels, m[a, b] = c_H(a)·c_W(b) with
    c_H(a) = #{u : 0 <= u < H_out, 0 <= u·stride + a·dilation - padding < H}
    (Keller et al. 2021, 4.2, where m is the convolution of ones with ones).

    Args:
        kernel: Height and width of the kernel.
        image: Height and width of the images.
        stride: Vertical and horizontal stride.
        padding: Vertical and horizontal padding; None for the padding p that keeps the size, with c_H(a) = H - |a - p|.
        dilation: Vertical and horizontal dilation.

    Returns:
        m, float64 ``(kh, kw)``. The tensor is cached and must not be modified.
    """
    if padding is None:
        padding = kernel[0] // 2, kernel[1] // 2
    rows, columns = (
        [_placements(tap, *sides) for tap in range(sides[0])]
        for sides in zip(kernel, image, stride, padding, dilation, strict=True)
    )
    # Kept for all callers, some of which make their tensors on the meta device.
    of_rows, of_columns = (torch.tensor(taps, dtype=torch.float64, device="cpu") for taps in (rows, columns))
    return torch.outer(of_rows, of_columns)


def _placements(tap: int, kernel: int, side: int, stride: int, padding: int, dilation: int) -> int:
    shift = tap * dilation - padding
    last_output = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride
    first, last = max(0, math.ceil(-shift / stride)), min(last_output, (side - 1 - shift) // stride)
    return max(0, last - first + 1)


def identity_images(channels: int, image: Size, device: torch.device) -> Tensor:
    """Return the rows of the identity matrix, each reshaped to the shape of an image.

    There are D = C·H·W images, float64 ``(D, C, H, W)``. Image i is 1 at its value i in flattened order, else 0.
    """
    dimensions = channels * math.prod(image)
    return torch.eye(dimensions, dtype=torch.float64, device=device).view(dimensions, channels, *image)


def materialise(weight: Tensor, image: Size) -> Tensor:
    """Return the matrix by which a zero-padded convolution multiplies flattened images of a given size.

    The matrix is D x D for images of D = C·H·W values, float64 and differentiable.

    T(w) vec(x) = vec(w * x) for the kernel w, the matrix T(w) and images x. Cost: O(D·C²·kh·kw·H·W).

    Args:
        weight: The kernel w, ``(C, C, kh, kw)``.
        image: Height H and width W of the images, D = C·H·W.
    """
    units = identity_images(weight.shape[1], image, weight.device)
    return convolve(weight.double(), units).flatten(1).T


def project(inverse_images: Tensor, kernel: Size) -> Tensor:
    """Return the kernel of the convolution whose matrix is nearest to a given matrix, such as an exact inverse.

    Nearest is meant in the Frobenius norm. The matrix is given by its D columns, each as an image.

    This is the orthogonal projection r_i = <B_i, M> / m_i with B_i = dT(w)/dw_i and the multiplicity m. For
    M = T(w)^-1, flip(r)·m is the exact gradient of log|det T(w)|. Cost: O(C²·kh·kw·H·W), the entries of M that a kernel
    can have.

    Args:
        inverse_images: M applied to the unit vectors, float64 ``(D, C, H, W)``.
        kernel: Height and width of r.
    """
    channels, image = inverse_images.shape[1], (inverse_images.shape[2], inverse_images.shape[3])
    entries = inverse_images.reshape(channels, *image, channels, *image).permute(3, 4, 5, 0, 1, 2)
    return nearest_kernel(entries, kernel, image)


def nearest_kernel(entries: Tensor, kernel: Size, image: Size, above: int = 0) -> Tensor:
    """Return the kernel whose convolution matrix is nearest in the Frobenius norm to a matrix of given entries.

    Args:
        entries: By output channel, row and column, then by input channel, row and column: all entries of the matrix, or
            sums over the positions of a window of rows, ``(C, h, W, C, h', W)``.
        kernel: Height and width of the kernel.
        image: Height and width of the images.
        above: Input rows of a window before its first output row.
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
    """Return the half-bandwidth of a convolution's matrix: the largest distance of nonzeros from the diagonal.

    It is b such that the matrix is 0 at (i, j) if |i - j| > b, for images of ``width`` pixels.

    It is C·(ph·W + pw) + C - 1 in the order (row, column, channel), with the padding (ph, pw).

    Args:
        weight: The kernel, ``(C, C, kh, kw)``.
        width: Width W of the images in pixels.
    """
    channels, padding = weight.shape[0], same_padding(weight)
    return channels * (padding[0] * width + padding[1]) + channels - 1


def band(weight: Tensor, image: Size) -> NDArray[np.float64]:
    """Return the matrix of a convolution as a NumPy array in the band storage format of LAPACK.

    The result is float64 ``(3b + 1, C·H·W)`` for half-bandwidth b.

    Rows and columns are in the order (row, column, channel). Entry (i, j) of T(w) is element [2b + i - j, j] of the
    result, ``(3b + 1, D)``, for half-bandwidth b. Cost: O(C²·kh·kw·H·W).
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


@torch.library.custom_op("snf::factorise_band", mutates_args=())
def factorise_band(weight: Tensor, image: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the LU factors and row swaps of the band matrix of a convolution.

    The factors are ``(D, 3b + 1)`` for a D x D matrix of half-bandwidth b.

    The factorisation is LAPACK's ``gbtrf``, in float64. Cost: O(D·b²). It is an operator of PyTorch, so that its work
    can be counted on the meta device like that of any other.

    Args:
        weight: The kernel, ``(C, C, kh, kw)``.
        image: Height and width of the images.
    """
    half = half_bandwidth(weight, image[1])
    factors, swaps, _ = lapack.dgbtrf(band(weight, (image[0], image[1])), half, half, overwrite_ab=True)
    # LAPACK counts columns first: transposed this is no copy.
    return torch.from_numpy(factors.T), torch.from_numpy(swaps)


@factorise_band.register_fake
def _(weight: Tensor, image: Sequence[int]) -> tuple[Tensor, Tensor]:
    dimensions = weight.shape[0] * math.prod(image)
    factors = weight.new_empty(dimensions, 3 * half_bandwidth(weight, image[1]) + 1, dtype=torch.float64)
    return factors, weight.new_empty(dimensions, dtype=torch.int32)


@torch.library.custom_op("snf::solve_band", mutates_args=())
def solve_band(factors: Tensor, swaps: Tensor, rows: Tensor, transpose: bool) -> Tensor:
    """Solve linear systems with the band matrix of a convolution, given its LU factors.

    Returns the solution x of T x = z, or of T^T x = z, for each row z, ``(N, D)``, from the LU factors of T.

    Cost: O(N·D·b) for half-bandwidth b.

    Args:
        factors: The LU factors from :func:`factorise_band`, ``(D, 3b + 1)``.
        swaps: The row swaps from :func:`factorise_band`, ``(D,)``.
        rows: The right-hand sides z, ``(N, D)``, float64.
        transpose: Whether to solve with T^T.
    """
    half = (factors.shape[1] - 1) // 3
    solution, _ = lapack.dgbtrs(
        factors.numpy().T, half, half, rows.cpu().numpy().T, swaps.numpy(), trans=int(transpose)
    )
    return torch.from_numpy(solution.T)


@solve_band.register_fake
def _(_factors: Tensor, _swaps: Tensor, rows: Tensor, transpose: bool) -> Tensor:  # noqa: ARG001  # its signature
    return torch.empty_like(rows)


@register_flop_formula(torch.ops.snf.factorise_band)
def _factorisation_flops(*_: object, out_shape: Any, **__: object) -> int:
    dimensions, width = out_shape[0]
    return int(4 * dimensions * ((width - 1) // 3) ** 2)


@register_flop_formula(torch.ops.snf.solve_band)
def _solution_flops(factors: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    return 2 * out_shape.numel() * factors[1]


class FactorisedConvolution:
    """LU factors of the matrix by which a convolution acts on flattened images of a fixed size.

    They are in float64 and give log|det| and inverses.

    If the band is narrow, 3b <= D for half-bandwidth b, the factors are banded (LAPACK ``gbtrf``): O(D·b²), and O(D·b)
    a solve. Otherwise, or if w is on an accelerator, they are dense: O(D³), and O(D²) a solve. Later changes of w have
    no effect.

    Args:
        weight: The kernel w, ``(C, C, kh, kw)``.
        image: Height and width of the images.

    Attributes:
        log_abs_det: log|det T(w)| in nats; -inf if T(w) is singular.
    """

    def __init__(self, weight: Tensor, image: Size) -> None:
        self.channels, self.image, self.device = weight.shape[0], image, weight.device
        self.half_bandwidth = half_bandwidth(weight, image[1])
        dimensions = self.channels * math.prod(image)
        self.banded = weight.device.type in ON_CPU and 3 * self.half_bandwidth <= dimensions
        if self.banded:
            self._lu, self._swaps = factorise_band(weight.detach(), image)
            diagonal = self._lu[:, 2 * self.half_bandwidth]
        else:
            self._factors = torch.linalg.lu_factor_ex(materialise(weight.detach(), image))
            diagonal = self._factors.LU.diagonal()
        self.log_abs_det = float(diagonal.abs().log().sum())

    def solve(self, z: Tensor, side: Literal["matrix", "transpose"] = "matrix") -> Tensor:
        """Return the result of applying the exact inverse of this convolution to the images ``z``.

        For ``side`` "transpose" it is the inverse of the transposed convolution.

        Args:
            z: Images, ``(N, C, H, W)``.
            side: The matrix of the system: T(w) or its transpose.

        Returns:
            The solutions in the shape and type of ``z``.

        Raises:
            torch.linalg.LinAlgError: T(w) is singular.
        """
        if self.log_abs_det == -math.inf:
            raise LinAlgError("the convolution has no inverse: the matrix of its kernel is singular")
        right = z.detach().double()
        if not self.banded:
            dense: Tensor = torch.linalg.lu_solve(
                self._factors.LU, self._factors.pivots, right.flatten(1).T, adjoint=side == "transpose"
            )
            return dense.T.reshape(z.shape).to(z.dtype)
        # LAPACK stores matrices by columns: a row for each sample here is a column for each right-hand side there.
        rows = right.permute(0, 2, 3, 1).flatten(1)
        solution: Tensor = solve_band(self._lu, self._swaps, rows, transpose=side == "transpose")
        x = solution.view(len(z), *self.image, self.channels)
        return x.permute(0, 3, 1, 2).contiguous().to(z)

    def inverse_images(self) -> Tensor:
        """Return the inverse of this convolution's matrix, with each column reshaped to an image.

        The matrix is D x D, and the result float64 ``(D, C, H, W)``.
        """
        return self.solve(identity_images(self.channels, self.image, self.device))
