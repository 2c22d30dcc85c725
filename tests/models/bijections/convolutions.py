"""Convolutions the slow way: matrices filled placement by placement, for tests to compare with."""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from snf_models.bijections.base import Shape
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
    """T(w), differentiable, from :func:`placements`; a matrix counts as a 1x1 kernel."""
    weight = weight if weight.ndim == 4 else weight[:, :, None, None]
    basis = placements(weight.shape[0], (weight.shape[2], weight.shape[3]), image)
    return torch.einsum("ocab,ocabij->ij", weight, basis)


def apply(linear: Tensor, x: Tensor) -> Tensor:
    """``linear`` times each sample of ``x``, in the shape of ``x``."""
    return (x.flatten(1) @ linear.T).view_as(x)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near_identity(channels: int, kernel: Size, scale: float, seed: int = 0) -> Tensor:
    """A kernel at a distance of ``scale`` from the identity."""
    weight = scale * normal(channels, channels, *kernel, seed=seed)
    weight[:, :, kernel[0] // 2, kernel[1] // 2] += torch.eye(channels)
    return weight


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def check_gradients(conv: Any, shape: Shape, *inverses: Tensor, estimate: Tensor | None = None) -> None:
    """Each gradient of a pass in training mode by differentiating dense matrices, with the input as data."""
    x, slope = normal(4, *shape, seed=5).requires_grad_(), normal(4, *shape, seed=6)
    share, error_share = normal(4, seed=7), normal(4, seed=8)
    z, log_det = conv(x)
    error = conv.pop_reconstruction_error()
    assert torch.equal(log_det, torch.zeros(4, dtype=torch.float64))
    torch.autograd.backward((z * slope).sum() + (log_det * share).sum() + (error * error_share).sum())

    kernels = [conv.weight, *inverses]
    fresh = [kernel.detach().clone().requires_grad_() for kernel in kernels]
    there, back, *second = (matrix(kernel, shape[1:]) for kernel in fresh)
    back = second[0] @ back if second else back
    data = x.detach()
    y = apply(there, data)
    torch.testing.assert_close(z.detach(), y.detach() + conv.bias.detach().view(1, -1, 1, 1), rtol=0, atol=1e-12)
    expected_error = (apply(back, y) - data).square().sum((1, 2, 3))
    if conv.symmetric:
        other = (apply(there, apply(back, y.detach())) - y.detach()).square().sum((1, 2, 3))
        expected_error = 0.5 * (expected_error + other)
    torch.testing.assert_close(error.detach(), expected_error.detach(), rtol=1e-12, atol=1e-12)
    x_slope = apply(there.detach().T, slope)
    inverse = back.detach() if estimate is None else matrix(estimate, shape[1:])
    surrogate = (
        0.5 * (y * slope).sum()
        - 0.5 * (apply(back, y.detach()) * x_slope).sum()
        + 0.5 * share.sum() * torch.trace(inverse @ there)
        - 0.5 * share.sum() * torch.trace(there.detach() @ back)
        + (expected_error * error_share).sum()
    )
    for kernel, expected in zip(kernels, torch.autograd.grad(surrogate, fresh), strict=True):
        torch.testing.assert_close(gradient_of(kernel), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient_of(conv.bias), slope.sum((0, 2, 3)), rtol=1e-12, atol=1e-12)
    # Earlier layers get the whole of W^T δ and nothing of the penalty.
    torch.testing.assert_close(gradient_of(x), x_slope, rtol=1e-12, atol=1e-12)
