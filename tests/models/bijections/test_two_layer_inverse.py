"""The convolution with a two-layer inverse against differentiation of dense matrices, filled by loops."""

import pytest
import torch
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.base import Shape
from snf_models.bijections.convolution import SelfNormalizingConv, TwoLayerInverseConv, place
from snf_models.bijections.convolution_matrix import FactorisedConvolution, Size, flip
from snf_models.flows.architecture import ConvolutionalArchitecture
from snf_models.flows.build import build_flow
from snf_models.training.objective import SelfNormalizingObjective, inverse_errors
from tests.models.bijections.convolutions import (
    check_gradients,
    gradient_of,
    matrix,
    near_identity,
    normal,
    placements,
)
from tests.models.helpers import CountedCalls, dequantised, real_images

CASES = pytest.mark.parametrize(
    ("shape", "kernel"),
    [((2, 5, 4), (3, 3)), ((1, 6, 3), (5, 1)), ((3, 3, 4), (1, 1)), ((2, 2, 3), (3, 5)), ((2, 4, 1), (1, 3))],
    ids=str,
)


def layer(channels: int, kernel: Size, scale: float = 0.2) -> TwoLayerInverseConv:
    """A float64 layer in training mode with an inverse unrelated to w."""
    made = TwoLayerInverseConv(channels, kernel).double().train()
    with torch.no_grad():
        made.weight.copy_(near_identity(channels, kernel, scale, seed=1))
        made.first_inverse_weight.copy_(near_identity(channels, kernel, scale, seed=2))
        made.second_inverse_weight.copy_(near_identity(channels, kernel, scale, seed=3))
        made.bias.copy_(normal(channels, seed=4))
    return made


@CASES
def test_place_counts_every_placement(shape: Shape, kernel: Size) -> None:
    outer, inner = (normal(shape[0], shape[0], *kernel, seed=seed) for seed in (1, 2))
    product = matrix(outer, shape[1:]) @ matrix(inner, shape[1:])
    expected = torch.einsum("ocabij,ij->ocab", placements(shape[0], kernel, shape[1:]), product)
    torch.testing.assert_close(place(outer, inner, shape[1:]), expected, rtol=0, atol=1e-12)


@CASES
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_gradient_is_that_of_the_formulas_on_dense_matrices(shape: Shape, kernel: Size, symmetric: bool) -> None:
    conv = layer(shape[0], kernel)
    conv.symmetric = symmetric
    check_gradients(conv, shape, conv.first_inverse_weight, conv.second_inverse_weight)


@CASES
def test_newton_schulz_replaces_the_product_of_both_kernels(shape: Shape, kernel: Size) -> None:
    """The term of the log-det alone: middle taps read off a dense product far from any border, times placements."""
    conv = layer(shape[0], kernel)
    conv.gradient = "newton-schulz"
    torch.autograd.backward(conv(normal(3, *shape, seed=5))[1].mean())
    side = (5 * kernel[0] - 4, 5 * kernel[1] - 4)  # five kernels in a row reach the border and no further
    placed = placements(shape[0], kernel, side)
    there, back_first, back_second = (
        torch.einsum("ocab,ocabij->ij", part.detach(), placed)
        for part in (conv.weight, conv.first_inverse_weight, conv.second_inverse_weight)
    )
    (row, column), (down, right) = (side[0] // 2, side[1] // 2), (kernel[0] // 2, kernel[1] // 2)
    back = back_second.view(shape[0], *side, -1)[:, row, column] @ back_first  # the rows of the middle
    step = (2 * back - back @ there @ back_second @ back_first).view(shape[0], shape[0], *side)
    taps = step[:, :, row - down : row + down + 1, column - right : column + right + 1]
    counts = placements(shape[0], kernel, shape[1:]).sum((-1, -2))
    torch.testing.assert_close(2 * gradient_of(conv.weight), flip(taps) * counts, rtol=0, atol=1e-11)


def test_white_noise_is_the_constraint_on_the_jacobians() -> None:
    """E_v ||J_g J_f v - v||² by forward differentiation at a point, v the noise: the maps have offsets."""
    conv, x, v = layer(2, (3, 3)).eval(), normal(1, 2, 5, 4, seed=5), normal(1, 2, 5, 4, seed=6)
    z, forward_slope = torch.func.jvp(lambda x: conv(x)[0], (x,), (v,))[:2]
    slope = torch.func.jvp(conv.approximate_inverse, (z,), (forward_slope,))[1]
    torch.testing.assert_close(slope, conv.reconstruct(v), rtol=0, atol=1e-12)


def test_it_starts_as_an_inverse_of_first_order() -> None:
    conv = TwoLayerInverseConv(4).double()
    noise = matrix(conv.weight.detach(), (6, 5)) - torch.eye(120)
    both = matrix(conv.second_inverse_weight.detach(), (6, 5)) @ matrix(conv.first_inverse_weight.detach(), (6, 5))
    torch.testing.assert_close(both @ (noise + torch.eye(120)), torch.eye(120) - noise @ noise, rtol=0, atol=1e-6)


def test_two_kernels_learn_a_better_inverse_than_one() -> None:
    """The penalty of white noise alone, w fixed: the least ||I - R W|| that either class reaches."""
    errors = []
    for kind in (SelfNormalizingConv, TwoLayerInverseConv):
        conv = kind(2).double()
        with torch.no_grad():
            conv.weight.copy_(near_identity(2, (3, 3), 0.1, seed=1))
        inverse = [parameter for name, parameter in conv.named_parameters() if name.endswith("inverse_weight")]
        optimizer = torch.optim.LBFGS(inverse, max_iter=100)
        units = torch.eye(60, dtype=torch.float64).view(60, 2, 6, 5)

        def error(conv: SelfNormalizingConv | TwoLayerInverseConv = conv, units: Tensor = units) -> Tensor:
            return (conv.reconstruct(units) - units).square().sum()

        def closure(inverse: list[torch.nn.Parameter] = inverse) -> float:
            loss = error()
            for parameter, gradient in zip(inverse, torch.autograd.grad(loss, inverse), strict=True):
                parameter.grad = gradient
            return loss.item()

        optimizer.step(closure)
        errors.append(error().item())
    assert errors[1] < 0.5 * errors[0]


def test_a_whole_flow_of_them_trains_without_factorising(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = ConvolutionalArchitecture(
        channels=1, height=8, width=8, blocks=2, layers=2, linear="self-normalizing-two-layer"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = build_flow(architecture).double().train()
    y, log_det = flow.pixels(dequantised(real_images(16, 8)))
    config = TrainingConfig(reconstruction_weight=1.0, noise_reconstruction=1.0)
    objective = SelfNormalizingObjective(flow, (1, 8, 8), config)
    assert len(objective.layers) == 4
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2, fused=True)

    def step(index: int) -> float:
        loss = objective.loss(flow, y, log_det, index)
        optimizer.zero_grad()
        torch.autograd.backward(loss.value)
        optimizer.step()
        return float(loss.log_likelihood)

    def refuse(*_arguments: object) -> None:
        pytest.fail("a training step factorised the convolution")

    with monkeypatch.context() as patched, CountedCalls() as calls:
        patched.setattr(FactorisedConvolution, "__init__", refuse)
        first = step(0)
    assert len(calls.names) > 200
    assert calls.cubic == []
    assert [step(index) for index in range(1, 30)][-1] > first + 50
    assert max(inverse_errors(flow, (1, 8, 8)).values()) < 0.2
