"""Convolutions the slow way: matrices filled placement by placement, for tests to compare with."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from snf_models.bijections.convolution_matrix import Size


def placements(channels: int, kernel: Size, image: Size) -> Tensor:
    """B, float64 ``(C, C, kh, kw, D, D)``: where each kernel element stands in the matrix, by loops."""
    basis = torch.zeros(channels, channels, *kernel, channels, *image, channels, *image, dtype=torch.float64)
    for a, b, i, j in product(*map(range, (*kernel, *image))):
        row, column = i + a - kernel[0] // 2, j + b - kernel[1] // 2
        if 0 <= row < image[0] and 0 <= column < image[1]:
            for o, c in product(range(channels), repeat=2):
                basis[o, c, a, b, o, i, j, c, row, column] = 1
    return basis.flatten(4, 6).flatten(5)


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
