"""The self normalizing convolution against differentiation of dense matrices (Keller et al. 2021, eq. 13-16)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from snf_models.bijections.base import LogDetGradient, Shape
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.bijections.convolution import SelfNormalizingConv, newton_schulz
from snf_models.bijections.convolution_matrix import FactorisedConvolution, Size
from snf_models.bijections.dense import SelfNormalizingDense
from tests.models.bijections.convolutions import check_gradients, matrix, near_identity, normal
from tests.models.helpers import CountedCalls

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
    conv = layer(shape[0], kernel, gradient)
    conv.symmetric = symmetric
    estimate = bulk_newton_schulz(conv.weight.detach(), conv.inverse_weight.detach())
    check_gradients(conv, shape, conv.inverse_weight, estimate=None if gradient == "paper" else estimate)


@pytest.mark.parametrize("kind", [SelfNormalizingConv1x1, SelfNormalizingDense])
@pytest.mark.parametrize("gradient", ["paper", "newton-schulz"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_gradient_of_a_matrix_is_that_of_the_formulas(
    kind: type[SelfNormalizingConv1x1 | SelfNormalizingDense], gradient: LogDetGradient, symmetric: bool
) -> None:
    """R far from W^-1 (eq. 10 and 11); a dense layer is the 1x1 convolution of one location."""
    shape = (4, 3, 2) if kind is SelfNormalizingConv1x1 else (6, 1, 1)
    made = kind(shape[0]).double().train()
    made.gradient, made.symmetric = gradient, symmetric
    randomise(made, 0.3)
    weight, inverse = made.weight.detach(), made.inverse_weight.detach()
    estimate = None if gradient == "paper" else 2 * inverse - inverse @ weight @ inverse
    check_gradients(made, shape, made.inverse_weight, estimate=estimate)


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


def test_start_is_a_transposed_kernel_near_the_inverse() -> None:
    conv = SelfNormalizingConv(4).double()
    torch.testing.assert_close(matrix(conv.inverse_weight, (5, 4)), matrix(conv.weight, (5, 4)).T, rtol=0, atol=0)
    x = normal(2, 4, 5, 4, seed=0)
    assert float((conv.reconstruct(x).detach() - x).norm() / x.norm()) < 0.1


@pytest.mark.parametrize("gradient", ["paper", "newton-schulz"])
def test_a_training_step_factorises_nothing(gradient: LogDetGradient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        pytest.fail("a training step factorised the convolution")

    monkeypatch.setattr(FactorisedConvolution, "__init__", refuse)
    conv, x = layer(3, (3, 3), gradient), normal(4, 3, 6, 5, seed=0).requires_grad_()
    with CountedCalls() as calls:
        z, log_det = conv(x)
        loss = 0.5 * z.square().sum() - log_det.sum() + conv.pop_reconstruction_error().sum()
        torch.autograd.backward(loss)
    assert any("convolution" in name for name in calls.names)
    assert calls.cubic == []
