"""Dense layers and learned inverse matrices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snf_models.bijections.activations import SmoothLeakyReLU
from snf_models.bijections.base import Bijection, LogDetGradient, Shape
from snf_models.bijections.channels import LUConv1x1, SelfNormalizingConv1x1
from snf_models.bijections.conformance import jacobian_log_det, randomise
from snf_models.bijections.dense import ExactDense, RelativeGradientDense, SelfNormalizingDense, WoodburyConv
from snf_models.bijections.frozen import FrozenAffine
from snf_models.bijections.matrices import MatrixInverse

IMAGE: Shape = (2, 1, 3)
D = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(make: Callable[[], Bijection], seed: int = 1) -> Any:
    """A bijection in float64 whose every parameter is away from where it starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = make()
    randomise(layer, 0.2, seed)
    return layer.double()


def assert_equal(got: Tensor | None, expected: Tensor, name: str) -> None:
    assert got is not None, name
    assert expected.abs().max() > 1e-6, f"{name}: a gradient of zero proves nothing"
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10, msg=lambda text: f"{name}: {text}")


class TwoLayers:
    """Dense, smooth leaky ReLU, dense, standard normal; R = W^-1, and the likelihood written out by hand."""

    def __init__(self) -> None:
        self.layers = [moved(lambda: SelfNormalizingDense(D), seed).train() for seed in (1, 2)]
        with torch.no_grad():
            for layer in self.layers:
                layer.refresh_inverse(IMAGE)
        self.x = normal(5, *IMAGE).requires_grad_()

    def backward(self, reconstruction_weight: float) -> None:
        activated, log_det = self.x, torch.zeros(5, dtype=torch.float64)
        for index, layer in enumerate(self.layers):
            activated, share = layer(activated)
            log_det = log_det + share
            if index == 0:
                activated, share = SmoothLeakyReLU()(activated)
                log_det = log_det + share
        loss = (0.5 * activated.flatten(1).square().sum(1) - log_det).mean()
        errors = torch.stack([layer.pop_reconstruction_error().mean() for layer in self.layers])
        torch.autograd.backward(loss + reconstruction_weight * errors.sum())

    @staticmethod
    def negative_log_likelihood(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        hidden = x.flatten(1) @ weights[0].T + biases[0]
        activated = 0.3 * hidden + 0.7 * torch.log1p(hidden.exp())
        log_slope = torch.log(0.3 + 0.7 / (1 + torch.exp(-hidden))).sum(1)
        z = activated @ weights[1].T + biases[1]
        log_dets = torch.linalg.slogdet(weights[0]).logabsdet + torch.linalg.slogdet(weights[1]).logabsdet
        return (0.5 * z.square().sum(1) - log_slope - log_dets).mean()


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def test_with_exact_inverses_both_weights_get_half_their_exact_gradients_and_all_else_the_whole() -> None:
    model = TwoLayers()
    model.backward(0.0)
    weights = leaves([layer.weight for layer in model.layers])
    biases = leaves([layer.bias for layer in model.layers])
    inverses = leaves([torch.linalg.inv(weight) for weight in weights])
    (x,) = leaves([model.x])
    by_f = torch.autograd.grad(model.negative_log_likelihood(x, weights, biases), [*weights, *biases, x])
    inverted = [torch.linalg.inv(inverse) for inverse in inverses]
    by_g = torch.autograd.grad(model.negative_log_likelihood(x, inverted, biases), inverses)
    for index, layer in enumerate(model.layers):
        assert_equal(layer.weight.grad, 0.5 * by_f[index], f"W{index}")
        assert_equal(layer.inverse_weight.grad, 0.5 * by_g[index], f"R{index}")
        assert_equal(layer.bias.grad, by_f[2 + index], f"b{index}")
    assert_equal(model.x.grad, by_f[4], "x")


def test_the_penalty_is_that_of_detached_inputs_without_biases() -> None:
    model = TwoLayers()
    for layer in model.layers:
        randomise(layer, 0.1, 5)
    tensors = [model.x, *(p for layer in model.layers for p in layer.parameters())]

    def gradients(reconstruction_weight: float) -> list[Tensor]:
        for tensor in tensors:
            tensor.grad = None
        model.backward(reconstruction_weight)
        return [tensor.grad.clone() for tensor in tensors]

    got = [whole - likelihood for whole, likelihood in zip(gradients(3.0), gradients(0.0), strict=True)]
    weights = leaves([layer.weight for layer in model.layers])
    inverses = leaves([layer.inverse_weight for layer in model.layers])
    with torch.no_grad():
        first = model.x.flatten(1)
        second = SmoothLeakyReLU()(first @ weights[0].T + model.layers[0].bias)[0]
    penalty = torch.zeros((), dtype=torch.float64)
    for data, weight, inverse in zip((first, second), weights, inverses, strict=True):
        penalty = penalty + 3.0 * (data @ weight.T @ inverse.T - data).square().sum(1).mean()
    expected = torch.autograd.grad(penalty, [weights[0], inverses[0], weights[1], inverses[1]])
    x, weight0, bias0, inverse0, weight1, bias1, inverse1 = got
    for gradient, reference in zip((weight0, inverse0, weight1, inverse1), expected, strict=True):
        assert_equal(gradient, reference, "penalty")
    for gradient in (x, bias0, bias1):
        assert gradient.abs().max() < 1e-12, "the penalty reaches something else"


@pytest.mark.parametrize("gradient", ["paper", "newton-schulz"])
@pytest.mark.parametrize("count", [1, 4])
def test_away_from_exact_inverses_it_is_the_1x1_convolution_of_one_location(
    count: int, gradient: LogDetGradient
) -> None:
    """Of one formula for both: eq. 10 and 11 written out, and the layer of images of one pixel."""
    dense = moved(lambda: SelfNormalizingDense(D)).train()
    conv = SelfNormalizingConv1x1(D).double().train()
    conv.load_state_dict(dense.state_dict())
    dense.gradient = conv.gradient = gradient
    slope, share, error_share = normal(count, D, seed=1), normal(count, seed=2), normal(count, seed=3)
    inputs = []
    for layer, shape in ((dense, (count, *IMAGE)), (conv, (count, D, 1, 1))):
        x = normal(count, D).view(shape).requires_grad_()
        z, log_det = layer(x)
        assert (log_det == 0).all()
        error = layer.pop_reconstruction_error()
        torch.autograd.backward((z.flatten(1) * slope).sum() + (log_det * share).sum() + (error * error_share).sum())
        inputs.append(x)
    for name, parameter in dense.named_parameters():
        assert_equal(parameter.grad, conv.get_parameter(name).grad, name)  # type: ignore[arg-type]
    assert_equal(inputs[0].grad.flatten(1), inputs[1].grad.flatten(1), "x")  # type: ignore[union-attr]

    weight, inverse, x = dense.weight.detach(), dense.inverse_weight.detach(), normal(count, D)
    y, grad_x = x @ weight.T, slope @ weight
    error = (y @ inverse.T - x) * error_share[:, None]
    estimate = inverse if gradient == "paper" else 2 * inverse - inverse @ weight @ inverse
    expected_weight = 0.5 * (slope.T @ x + share.sum() * estimate.T) + 2 * (error @ inverse).T @ x
    expected_inverse = -0.5 * (grad_x.T @ y + share.sum() * weight.T) + 2 * error.T @ y
    assert_equal(dense.weight.grad, expected_weight, "W")
    assert_equal(dense.inverse_weight.grad, expected_inverse, "R")
    assert_equal(inputs[0].grad.flatten(1), grad_x, "x")  # type: ignore[union-attr]


def test_relative_gradient_is_that_of_the_dense_augmented_matrix() -> None:
    layer = moved(lambda: RelativeGradientDense(D)).train()
    x = normal(5, *IMAGE).requires_grad_()
    z, log_det = layer(x)
    assert (log_det == 0).all()
    shares = torch.rand(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.autograd.backward((torch.cosh(z).flatten(1).sum(1) * shares - log_det * shares).sum())

    augmented = torch.eye(D + 1, dtype=torch.float64)
    augmented[:D, :D], augmented[:D, D] = layer.weight.detach(), layer.bias.detach()
    augmented.requires_grad_()
    data = torch.cat([normal(5, D), torch.ones(5, 1, dtype=torch.float64)], dim=1).requires_grad_()
    likelihood = (torch.cosh((data @ augmented.T)[:, :D]).sum(1) - torch.linalg.slogdet(augmented).logabsdet) * shares
    gradient, grad_data = torch.autograd.grad(likelihood.sum(), [augmented, data])
    # The last row of the augmented matrix is no parameter.
    free = torch.cat([gradient[:D], torch.zeros(1, D + 1, dtype=torch.float64)])
    expected = (free @ augmented.T @ augmented).detach()
    assert_equal(layer.weight.grad, expected[:D, :D], "W")
    assert_equal(layer.bias.grad, expected[:D, D], "b")
    assert_equal(x.grad.flatten(1), grad_data[:, :D], "x")  # type: ignore[union-attr]
    assert (free[:D] * expected[:D]).sum() > 0, "not a direction of descent"


class Operations(TorchDispatchMode):
    """Names of the operations that are run, in forward and backward alike; products are those of two matrices."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
    CUBIC = ("linalg", "inverse", "det", "lu", "solve", "qr", "svd")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.name().removeprefix("aten::").split(".")[0])
        return func(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return sum(name in self.PRODUCTS for name in self.names)

    @property
    def cubic(self) -> list[str]:
        return [name for name in self.names if name != "detach" and any(part in name for part in self.CUBIC)]


def training_step(layer: Any) -> Operations:
    x = normal(4, *IMAGE).requires_grad_()
    with Operations() as operations:
        z, log_det = layer.train()(x)
        loss = z.square().sum() - log_det.sum()
        if layer.learned_inverse:
            loss = loss + layer.pop_reconstruction_error().sum()
        torch.autograd.backward(loss)
    return operations


def test_a_step_takes_six_products_or_four_and_factorises_nothing() -> None:
    step = training_step(SelfNormalizingDense(D).double())
    assert (step.products, step.cubic) == (6, [])
    step = training_step(RelativeGradientDense(D).double())
    assert (step.products, step.cubic) == (4, [])
    assert any("slogdet" in name for name in training_step(ExactDense(D).double()).cubic)


def test_no_matrix_is_copied_in_a_step_and_gradients_are_stored_as_their_weights() -> None:
    layer = copy.deepcopy(SelfNormalizingDense(D)).double()
    layer.load_state_dict(SelfNormalizingDense(D).state_dict())
    assert {"clone", "copy_", "contiguous"}.isdisjoint(training_step(layer).names)
    assert (layer.weight.stride(), layer.inverse_weight.stride()) == ((D, 1), (1, D))
    for weight in (layer.weight, layer.inverse_weight):
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride()


def test_where_they_start() -> None:
    layer = SelfNormalizingDense(784)
    assert torch.equal(layer.weight, torch.eye(784))
    assert torch.equal(layer.inverse_weight, torch.eye(784))
    # Keller et al. 2021, code: 0.0355 in one draw; six standard errors of a deviation from 784 values.
    assert abs(float(layer.bias.detach().std()) - 784**-0.5) < 6 * 784**-0.5 / (2 * 784) ** 0.5
    relative = RelativeGradientDense(16)
    torch.testing.assert_close(relative.weight @ relative.weight.T, torch.eye(16), rtol=0, atol=1e-5)
    assert (relative.bias == 0).all()
    assert relative(torch.zeros(1, 1, 4, 4))[1].abs().max() < 1e-5
    lu = LUConv1x1(7).double()
    torch.testing.assert_close(lu.affine()[0] @ lu.affine()[0].T, torch.eye(7).double(), rtol=0, atol=1e-5)
    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(WoodburyConv((3, 4, 4), 2, 2).double()(x)[0], x, rtol=0, atol=0.05)


LINEAR: dict[str, Callable[[], Bijection]] = {
    "exact": lambda: ExactDense(12),
    "self-normalizing": lambda: SelfNormalizingDense(12),
    "relative": lambda: RelativeGradientDense(12),
    "lu": lambda: LUConv1x1(3),
    "woodbury": lambda: WoodburyConv((3, 2, 2), 2, 3),
    "woodbury-full-rank": lambda: WoodburyConv((3, 2, 2), 3, 4),
}


@pytest.mark.parametrize("name", LINEAR)
def test_frozen_forms_map_and_invert_alike_and_their_log_det_is_that_of_the_jacobian(name: str) -> None:
    layer, shape = moved(LINEAR[name]).eval(), (3, 2, 2)
    x = normal(4, *shape)
    z, log_det = (tensor.detach() for tensor in layer(x))
    frozen, constant = layer.freeze(shape), layer.constant_log_det_at(shape)
    randomise(layer, 1.0)  # what is frozen is a copy
    torch.testing.assert_close(frozen.forward(x)[0], z, rtol=0, atol=1e-12)
    assert frozen.forward(x)[1] is None
    torch.testing.assert_close(frozen.inverse(z, "exact"), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(frozen.forward(frozen.inverse(x, "exact"))[0], x, rtol=0, atol=1e-9)
    expected = jacobian_log_det(lambda s: frozen.forward(s)[0], x)
    torch.testing.assert_close(expected, torch.full((4,), constant, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(expected, log_det, rtol=0, atol=1e-10)


def test_frozen_neighbours_are_one_map_and_keep_both_inverses() -> None:
    layers = [moved(lambda: SelfNormalizingDense(D), 1).eval(), moved(lambda: ExactDense(D), 2).eval()]
    frozen = [layer.freeze(IMAGE) for layer in layers]
    assert all(isinstance(step, FrozenAffine) and step.flat for step in frozen)
    both = frozen[0].then(frozen[1])
    x = normal(4, *IMAGE)
    z = layers[1](layers[0](x)[0])[0].detach()
    torch.testing.assert_close(both.forward(x)[0], z, rtol=0, atol=1e-12)
    torch.testing.assert_close(both.inverse(z, "exact"), x, rtol=0, atol=1e-9)
    learned = layers[0].approximate_inverse(layers[1].inverse(z)[0]).detach()
    torch.testing.assert_close(both.inverse(z, "learned"), learned, rtol=0, atol=1e-9)
    assert (learned - x).abs().max() > 1e-2, "a random R is no inverse"


def test_log_det_of_float32_weights_is_computed_in_float64() -> None:
    layer = ExactDense(96)
    randomise(layer, 0.1)
    expected = float(torch.linalg.slogdet(layer.weight.detach().double()).logabsdet)
    assert layer.constant_log_det_at((1, 8, 12)) == expected
    assert layer.eval()(torch.zeros(1, 1, 8, 12))[1].item() == torch.tensor(expected).float().item()


def test_both_sides_are_penalised_where_that_is_asked_for() -> None:
    layer = moved(lambda: SelfNormalizingDense(D)).train()
    layer.symmetric = True
    x = normal(3, *IMAGE)
    layer(x)
    weight, inverse, data = layer.weight, layer.inverse_weight, x.flatten(1)
    y = data @ weight.T
    there = (y @ inverse.T - data).square().sum(1)
    back = (y @ inverse.T @ weight.T - y).square().sum(1)
    torch.testing.assert_close(layer.pop_reconstruction_error(), 0.5 * (there + back))


SIZE = 40


def off_inverse(make: Callable[[int], MatrixInverse], condition: float = 30.0) -> MatrixInverse:
    """A layer in float64 of the given condition, whose learned inverse makes errors of a tenth: W R = I + noise."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)

    layer = make(SIZE).double()
    left, right = (torch.linalg.qr(noise()).Q for _ in range(2))
    with torch.no_grad():
        layer.weight.copy_(
            left @ torch.diag(torch.logspace(0, -np.log10(condition), SIZE, dtype=torch.float64)) @ right
        )
        layer.inverse_weight.copy_(
            torch.linalg.solve(layer.weight, torch.eye(SIZE).double() + 0.1 * SIZE**-0.5 * noise())
        )
    return layer


def white(count: int, seed: int = 1) -> Tensor:
    return torch.randn(SIZE, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("make", [SelfNormalizingDense, SelfNormalizingConv1x1])
@pytest.mark.parametrize("count", [1, 7, SIZE])
def test_the_corrected_inverse_is_the_nearest_that_is_exact_on_the_directions(
    make: Callable[[int], MatrixInverse], count: int
) -> None:
    layer, directions = off_inverse(make), white(count)
    weight, before = (each.detach().numpy().copy() for each in (layer.weight, layer.inverse_weight))
    layer.correct_inverse(directions)
    after = layer.inverse_weight.detach().numpy()
    images = weight @ before @ directions.numpy()
    missing = np.linalg.solve(weight, images) - before @ images
    # X Y = missing by the least X: of Y^T X^T = missing^T, lstsq finds the solution of least norm.
    least = np.linalg.lstsq(images.T, missing.T, rcond=None)[0].T
    np.testing.assert_allclose(after - before, least, rtol=0, atol=1e-10 * np.abs(before).max())
    if count == SIZE:
        np.testing.assert_allclose(after, np.linalg.inv(weight), rtol=0, atol=1e-9 * np.abs(after).max())


@pytest.mark.parametrize("condition", [30.0, 1e4])
def test_errors_shrink_by_the_share_of_the_directions_whatever_the_condition(condition: float) -> None:
    layer = off_inverse(SelfNormalizingDense, condition)
    inverse = torch.linalg.inv(layer.weight.detach())
    start = (layer.inverse_weight.detach() - inverse).square().sum()
    for seed in range(40):
        layer.correct_inverse(white(4, seed))
    left = (layer.inverse_weight.detach() - inverse).square().sum() / start
    assert 0.2 < float(left) / 0.9**40 < 5
