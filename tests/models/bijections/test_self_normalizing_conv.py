"""The self normalizing convolution against differentiation of dense matrices (Keller et al. 2021, eq. 13-16)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snf_models.bijections.base import LogDetGradient, Shape
from snf_models.bijections.convolution import SelfNormalizingConv, newton_schulz
from snf_models.bijections.convolution_matrix import FactorisedConvolution, Size
from tests.models.bijections.convolutions import apply, matrix, near_identity, normal

CASES = pytest.mark.parametrize(
    ("shape", "kernel"), [((2, 5, 4), (3, 3)), ((1, 6, 3), (5, 1)), ((3, 3, 4), (1, 1)), ((2, 4, 3), (1, 3))], ids=str
)


def layer(channels: int, kernel: Size, gradient: LogDetGradient = "paper", scale: float = 0.2) -> SelfNormalizingConv:
    """A float64 layer in training mode with r unrelated to the inverse of w."""
    made = SelfNormalizingConv(channels, kernel).double().train()
    made.gradient = gradient
    with torch.no_grad():
        made.weight.copy_(near_identity(channels, kernel, scale, seed=1))
        made.inverse_weight.copy_(near_identity(channels, kernel, scale, seed=2))
        made.bias.copy_(normal(channels, seed=3))
    return made


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def bulk_newton_schulz(weight: Tensor, inverse_weight: Tensor) -> Tensor:
    """The middle taps of 2r - r * w * r, read off a dense product far from any border."""
    channels, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
    side = (3 * (kernel[0] - 1) + 1, 3 * (kernel[1] - 1) + 1)
    there, back = matrix(weight, side), matrix(inverse_weight, side)
    product = (2 * back - back @ there @ back).view(channels, *side, channels, *side)
    row, column = side[0] // 2, side[1] // 2
    down, right = kernel[0] // 2, kernel[1] // 2
    return product[:, row, column, :, row - down : row + down + 1, column - right : column + right + 1]


@CASES
@pytest.mark.parametrize("gradient", ["paper", "newton-schulz"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_gradient_is_that_of_the_formulas_on_dense_matrices(
    shape: Shape, kernel: Size, gradient: LogDetGradient, symmetric: bool
) -> None:
    """Every term by differentiating a linear function that has it as its slope; the input counts as data."""
    channels, image = shape[0], shape[1:]
    conv = layer(channels, kernel, gradient)
    conv.symmetric = symmetric
    x, slope = normal(4, *shape, seed=4).requires_grad_(), normal(4, *shape, seed=5)
    share, error_share = normal(4, seed=6), normal(4, seed=7)
    z, log_det = conv(x)
    error = conv.pop_reconstruction_error()
    assert torch.equal(log_det, torch.zeros(4, dtype=torch.float64))
    torch.autograd.backward((z * slope).sum() + (log_det * share).sum() + (error * error_share).sum())

    weight, inverse = (p.detach().clone().requires_grad_() for p in (conv.weight, conv.inverse_weight))
    there, back = matrix(weight, image), matrix(inverse, image)
    estimate = inverse if gradient == "paper" else bulk_newton_schulz(weight, inverse)
    data = x.detach()
    y = apply(there, data)
    torch.testing.assert_close(z.detach(), y.detach() + conv.bias.detach().view(1, -1, 1, 1), rtol=0, atol=1e-12)
    expected_error = (apply(back, y) - data).square().sum((1, 2, 3))
    if symmetric:
        other = (apply(there, apply(back, y.detach())) - y.detach()).square().sum((1, 2, 3))
        expected_error = 0.5 * (expected_error + other)
    torch.testing.assert_close(error.detach(), expected_error.detach(), rtol=1e-12, atol=1e-12)
    x_slope = apply(there.detach().T, slope)
    surrogate = (
        0.5 * (y * slope).sum()
        - 0.5 * (apply(back, y.detach()) * x_slope).sum()
        + 0.5 * share.sum() * torch.trace(matrix(estimate.detach(), image) @ there)
        - 0.5 * share.sum() * torch.trace(there.detach() @ back)
        + (expected_error * error_share).sum()
    )
    expected = torch.autograd.grad(surrogate, [weight, inverse])
    torch.testing.assert_close(gradient_of(conv.weight), expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient_of(conv.inverse_weight), expected[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient_of(conv.bias), slope.sum((0, 2, 3)), rtol=1e-12, atol=1e-12)
    # Earlier layers get the whole of W^T δ and nothing of the penalty.
    torch.testing.assert_close(gradient_of(x), x_slope, rtol=1e-12, atol=1e-12)


@CASES
def test_the_penalty_alone_is_that_of_detached_inputs(shape: Shape, kernel: Size) -> None:
    conv, x = layer(shape[0], kernel), normal(4, *shape, seed=4).requires_grad_()
    conv(x)
    torch.autograd.backward(conv.pop_reconstruction_error().mean())
    assert not gradient_of(x).any()
    penalty = (conv.reconstruct(x.detach()) - x.detach()).square().sum((1, 2, 3)).mean()
    parameters = [conv.weight, conv.inverse_weight]
    for parameter, expected in zip(parameters, torch.autograd.grad(penalty, parameters), strict=True):
        torch.testing.assert_close(gradient_of(parameter), expected, rtol=1e-12, atol=1e-12)


@CASES
def test_projected_r_gives_half_the_exact_gradient_of_the_log_det(shape: Shape, kernel: Size) -> None:
    conv = layer(shape[0], kernel)
    conv.refresh_inverse(shape)
    log_det = conv(normal(3, *shape, seed=4))[1]
    torch.autograd.backward(log_det.mean())
    weight = conv.weight.detach().clone().requires_grad_()
    (exact,) = torch.autograd.grad(torch.linalg.slogdet(matrix(weight, shape[1:])).logabsdet, weight)
    torch.testing.assert_close(2 * gradient_of(conv.weight), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (3, 3), (5, 3)], ids=str)
def test_newton_schulz_is_the_middle_of_the_bulk_product_and_nearer_the_exact_gradient(kernel: Size) -> None:
    weight = near_identity(3, kernel, 0.03)
    first_order = 2 * near_identity(3, kernel, 0.0) - weight
    better = newton_schulz(weight, first_order)
    torch.testing.assert_close(better, bulk_newton_schulz(weight, first_order), rtol=0, atol=1e-13)
    exact_layer = SelfNormalizingConv(3, kernel).double()
    with torch.no_grad():
        exact_layer.weight.copy_(weight)
    exact_layer.refresh_inverse((3, 9, 8))
    exact = exact_layer.inverse_weight.detach()
    assert float((better - exact).norm()) < 0.7 * float((first_order - exact).norm())


@torch.no_grad()
def test_evaluation_is_exact_and_frozen_layers_keep_both_inverses() -> None:
    conv = layer(2, (3, 3), scale=0.1).eval()
    x = normal(3, 2, 6, 5, seed=4)
    z, log_det = conv(x)
    expected = torch.linalg.slogdet(matrix(conv.weight, (6, 5))).logabsdet
    torch.testing.assert_close(log_det, expected.expand(3), rtol=1e-8, atol=0)
    torch.testing.assert_close(conv.inverse(z)[0], x, rtol=0, atol=1e-9)
    learned = apply(matrix(conv.inverse_weight, (6, 5)), z - conv.bias.view(1, -1, 1, 1))
    torch.testing.assert_close(conv.approximate_inverse(z), learned, rtol=0, atol=1e-12)
    frozen = conv.freeze((2, 6, 5))
    conv.inverse_weight.zero_()
    torch.testing.assert_close(frozen.inverse(z, "learned"), learned, rtol=0, atol=1e-12)
    torch.testing.assert_close(frozen.inverse(z, "exact"), x, rtol=0, atol=1e-12)


def test_start_is_a_transposed_kernel_near_the_inverse() -> None:
    conv = SelfNormalizingConv(4).double()
    torch.testing.assert_close(matrix(conv.inverse_weight, (5, 4)), matrix(conv.weight, (5, 4)).T, rtol=0, atol=0)
    x = normal(2, 4, 5, 4, seed=0)
    assert float((conv.reconstruct(x).detach() - x).norm() / x.norm()) < 0.1


class Calls(TorchDispatchMode):
    """Keeps the name of every operation, in forward and backward alike."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", ["paper", "newton-schulz"])
def test_a_training_step_factorises_nothing(gradient: LogDetGradient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        pytest.fail("a training step factorised the convolution")

    monkeypatch.setattr(FactorisedConvolution, "__init__", refuse)
    conv, x = layer(3, (3, 3), gradient), normal(4, 3, 6, 5, seed=0).requires_grad_()
    with Calls() as calls:
        z, log_det = conv(x)
        loss = 0.5 * z.square().sum() - log_det.sum() + conv.pop_reconstruction_error().sum()
        torch.autograd.backward(loss)
    cubic = ("linalg", "inverse", "det", "lu_", "solve", "svd", "qr", "matrix_exp")
    assert any("convolution" in name for name in calls.names)
    assert [name for name in calls.names if any(part in name for part in cubic) and "detach" not in name] == []
