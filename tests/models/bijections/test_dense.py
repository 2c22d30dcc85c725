"""Dense layers and learned inverse matrices."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.channels import LUConv1x1, SelfNormalizingConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.bijections.dense import ExactDense, RelativeGradientDense, SelfNormalizingDense, WoodburyConv
from snf_models.bijections.frozen import FrozenAffine
from snf_models.bijections.matrices import MatrixInverse
from tests.models.bijections.convolutions import normal
from tests.models.helpers import CountedCalls

IMAGE: Shape = (2, 1, 3)
D = 6


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
    assert_equal(x.grad.flatten(1), grad_data[:, :D], "x")
    assert (free[:D] * expected[:D]).sum() > 0, "not a direction of descent"


PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


def training_step(layer: Any) -> CountedCalls:
    x = normal(4, *IMAGE).requires_grad_()
    with CountedCalls() as calls:
        z, log_det = layer.train()(x)
        loss = z.square().sum() - log_det.sum()
        if layer.learned_inverse:
            loss = loss + layer.pop_reconstruction_error().sum()
        torch.autograd.backward(loss)
    return calls


def test_a_step_takes_six_products_or_four_and_factorises_nothing() -> None:
    for layer, products in ((SelfNormalizingDense(D), 6), (RelativeGradientDense(D), 4)):
        step = training_step(layer.double())
        assert (sum(name in PRODUCTS for name in step.names), step.cubic) == (products, [])
    assert any("slogdet" in name for name in training_step(ExactDense(D).double()).cubic)


def test_no_matrix_is_copied_in_a_step_and_gradients_are_stored_as_their_weights() -> None:
    layer = copy.deepcopy(SelfNormalizingDense(D)).double()
    layer.load_state_dict(SelfNormalizingDense(D).state_dict())
    assert {"clone", "copy_", "contiguous"}.isdisjoint(training_step(layer).names)
    assert (layer.weight.stride(), layer.inverse_weight.stride()) == ((D, 1), (1, D))
    for weight in (layer.weight, layer.inverse_weight):
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
