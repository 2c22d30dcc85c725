"""Convolutions the slow way: matrices filled placement by placement, for tests to compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from snf_models.bijections.convolution_matrix import Size


def placements(
    channels: int,
    kernel: Size,
    image: Size,
    stride: Size = (1, 1),
    padding: Size | None = None,
    dilation: Size = (1, 1),
) -> Tensor:
    """B, float64 ``(C, C, kh, kw, D_out, D)``: where each kernel element stands in the matrix, by loops."""
    down, right = padding or (kernel[0] // 2, kernel[1] // 2)
    height, width = (
        (image[axis] + 2 * (down, right)[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in range(2)
    )
    basis = torch.zeros(channels, channels, *kernel, channels, height, width, channels, *image, dtype=torch.float64)
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            for i in range(height):
                for j in range(width):
                    row, column = i * stride[0] + a * dilation[0] - down, j * stride[1] + b * dilation[1] - right
                    if 0 <= row < image[0] and 0 <= column < image[1]:
                        for o in range(channels):
                            for c in range(channels):
                                basis[o, c, a, b, o, i, j, c, row, column] = 1
    return basis.reshape(channels, channels, *kernel, channels * height * width, -1)


def matrix(weight: Tensor, image: Size) -> Tensor:
    """T(w), differentiable, from :func:`placements`."""
    basis = placements(weight.shape[0], (weight.shape[2], weight.shape[3]), image)
    return torch.einsum("ocab,ocabij->ij", weight, basis)


def apply(linear: Tensor, x: Tensor) -> Tensor:
    """``linear`` times each sample of ``x``, in the shape of ``x``."""
    return (x.flatten(1) @ linear.T).view_as(x)


def normal(*shape: int, seed: int) -> Tensor:
    """Normal noise, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near_identity(channels: int, kernel: Size, scale: float, seed: int = 0) -> Tensor:
    """A kernel at a distance of ``scale`` from the identity."""
    weight = scale * normal(channels, channels, *kernel, seed=seed)
    weight[:, :, kernel[0] // 2, kernel[1] // 2] += torch.eye(channels)
    return weight
