"""Emerging, periodic and exponential convolutions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.autoregressive import AutoregressiveConv, EmergingConv, skew, unskew
from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.conformance import randomise
from snf_models.bijections.spectral import ExponentialConv, PeriodicConv, apply_exponential, terms_needed, transfer
from snf_models.threads import torch_threads
from tests.models.bijections.convolutions import matrix, near_identity, normal

SHAPES = ((1, 5, 7), (3, 4, 3), (2, 6, 3))
MAKERS: dict[str, Callable[[Shape], Bijection]] = {
    "autoregressive": lambda shape: AutoregressiveConv(shape[0]),
    "emerging": lambda shape: EmergingConv(shape[0]),
    "exponential": ExponentialConv,
    "exponential-5x3": lambda shape: ExponentialConv(shape, (5, 3)),
    "periodic": lambda shape: PeriodicConv(shape[0]),
    "periodic-3x1": lambda shape: PeriodicConv(shape[0], (3, 1)),
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)


def build(make: Callable[[Shape], Bijection], shape: Shape, scale: float = 0.15) -> Bijection:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make(shape)
    randomise(made, scale, seed=1)
    return made.double().eval()


def matrix_of(function: Callable[[Tensor], Tensor], shape: Shape) -> Tensor:
    """The matrix of a linear map of one sample."""
    jacobian: Tensor = torch.autograd.functional.jacobian(
        lambda x: function(x.view(1, *shape)).flatten(), torch.zeros(shape, dtype=torch.float64).flatten()
    )
    return jacobian


@EVERY
@EVERY_SHAPE
def test_log_det_has_the_gradient_of_the_jacobian(make: Callable[[Shape], Bijection], shape: Shape) -> None:
    layer = build(make, shape)
    parameters = list(layer.parameters())
    x = torch.zeros(1, *shape, dtype=torch.float64)
    got = torch.autograd.grad(layer(x)[1].sum(), parameters, allow_unused=True, materialize_grads=True)
    jacobian = torch.autograd.functional.jacobian(lambda s: layer(s)[0].flatten(), x, create_graph=True)
    square = jacobian.reshape(x.numel(), x.numel())
    dense = torch.linalg.slogdet(square).logabsdet
    expected = torch.autograd.grad(dense, parameters, allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(1, 28, 28), (4, 14, 14), (16, 7, 7)], ids=str)
@torch.no_grad()
def test_emerging_starts_well_conditioned(shape: Shape, seed: int) -> None:
    torch.manual_seed(seed)
    layer = EmergingConv(shape[0]).eval()
    z = torch.randn(2, *shape)
    x = layer.inverse(z)[0]
    assert float((layer(x)[0] - z).abs().max()) < 1e-5, "float32 in and out"
    assert 0.3 < float(x.norm() / z.norm()) < 3


@torch.no_grad()
def test_autoregressive_matrix_is_triangular_and_sees_up_and_left_only() -> None:
    layer = build(MAKERS["autoregressive"], (2, 3, 4))
    ordered = layer(torch.eye(24, dtype=torch.float64).view(24, 3, 4, 2).permute(0, 3, 1, 2))[0]
    dense = ordered.permute(0, 2, 3, 1).reshape(24, 24).T
    assert not dense.triu(1).any()
    seen = dense.view(3, 4, 2, 3, 4, 2)[1, 1].abs().sum((0, 3))
    assert (seen > 0).tolist() == [[True, True, False, False], [True, True, False, False], [False] * 4]


@EVERY_SHAPE
def test_skewed_columns_are_anti_diagonals(shape: Shape) -> None:
    x = normal(2, *shape, seed=0)
    skewed = skew(x)
    for i in range(shape[1]):
        for j in range(shape[2]):
            assert torch.equal(skewed[:, :, i, i + j], x[:, :, i, j])
    assert skewed.count_nonzero() == x.count_nonzero()
    assert torch.equal(unskew(skewed, shape[2]), x)


class TestExponential:
    """What only the convolution exponential does: a series cut short, and a norm that is watched in buffers."""

    @pytest.mark.parametrize("scale", [0.02, 0.2, 0.6])
    @torch.no_grad()
    def test_series_is_the_matrix_exponential(self, scale: float) -> None:
        kernel = scale * normal(2, 2, 3, 3, seed=0)
        terms = terms_needed(kernel, (4, 5))
        dense = torch.linalg.matrix_exp(matrix(kernel, (4, 5)))
        x = normal(3, 2, 4, 5, seed=1)
        expected = (x.flatten(1) @ dense.T).view_as(x)
        torch.testing.assert_close(apply_exponential(kernel, x, terms), expected, rtol=1e-10, atol=1e-10)

    def test_published_number_of_terms_suffices_under_the_norm_bound(self) -> None:
        kernel = normal(4, 4, 3, 3, seed=0)
        norm = float(torch.linalg.matrix_norm(matrix(kernel, (7, 7)), ord=2))
        assert terms_needed(0.8 / norm * kernel, (7, 7)) == 13
        assert terms_needed(3 / norm * kernel, (7, 7)) > 20
        assert terms_needed(float("nan") * kernel, (7, 7)) == 13

    @torch.no_grad()
    def test_training_bounds_the_norm(self) -> None:
        layer = build(ExponentialConv, (3, 5, 4), scale=1.0).train()
        for _ in range(200):
            layer(torch.zeros(1, 3, 5, 4, dtype=torch.float64))
        norm = torch.linalg.matrix_norm(matrix(layer.bounded_kernel(), (5, 4)), ord=2)
        assert float(norm) == pytest.approx(0.9, abs=1e-3)
        estimate = layer.left.clone()
        layer.eval()(torch.zeros(1, 3, 5, 4, dtype=torch.float64))
        assert torch.equal(layer.left, estimate)

    @torch.no_grad()
    def test_training_stops_the_series_after_six_terms(self) -> None:
        layer = build(ExponentialConv, (2, 4, 3), scale=0.05)
        x = normal(3, 2, 4, 3, seed=0)
        exact, trained = layer(x)[0], layer.train()(x)[0]
        distance = float((exact - trained).abs().max())
        assert 1e-13 < distance < 1e-3
        torch.testing.assert_close(layer.inverse(layer.eval()(x)[0])[0], x, rtol=0, atol=1e-9)

    def test_two_forward_passes_before_one_backward(self) -> None:
        layer = build(ExponentialConv, (2, 4, 3)).train()
        x = normal(3, 2, 4, 3, seed=0)
        torch.autograd.backward(layer(x)[0].sum() + layer(x)[0].sum())


class TestPeriodic:
    """What only the periodic convolution does: wrap around, and be diagonal in frequency."""

    @pytest.mark.parametrize("image", [(4, 5), (5, 4), (3, 3), (6, 6)], ids=str)
    def test_log_det_is_that_of_the_circulant_matrix(self, image: tuple[int, int]) -> None:
        layer = build(MAKERS["periodic"], (2, *image))
        circulant = torch.zeros(2, *image, 2, *image, dtype=torch.float64)
        for a in range(3):
            for b in range(3):
                for i in range(image[0]):
                    for j in range(image[1]):
                        row, column = (i + a - 1) % image[0], (j + b - 1) % image[1]
                        circulant[:, i, j, :, row, column] += layer.weight.detach()[:, :, a, b]
        dense = circulant.view(2 * image[0] * image[1], -1)
        torch.testing.assert_close(
            matrix_of(lambda x: layer(x)[0] - layer.bias.view(1, -1, 1, 1), (2, *image)), dense, rtol=0, atol=1e-12
        )
        expected = float(torch.linalg.slogdet(dense).logabsdet)
        assert layer.constant_log_det_at((2, *image)) == pytest.approx(expected, abs=1e-10)

    def test_start_is_near_the_identity(self) -> None:
        torch.testing.assert_close(
            PeriodicConv(3).weight.detach().double(), near_identity(3, (3, 3), 0.0), rtol=0, atol=0.02
        )


def test_periodic_convolution_of_many_channels_with_several_threads() -> None:
    """A batch of its matrices is wrong in PyTorch 2.13; one by one they are right."""
    shape = (160, 3, 4)
    layer = build(lambda shape: PeriodicConv(shape[0]), shape, scale=0.02)
    matrices = transfer(layer.weight.detach(), shape[1:]).numpy()
    # Columns 0 and 2 of four have both signs of a frequency, column 1 one of them.
    expected = float((np.linalg.slogdet(matrices)[1] * np.array([1, 2, 1])).sum())
    x = normal(2, *shape, seed=2)
    with torch_threads(2):
        z, log_det = layer(x)
        (gradient,) = torch.autograd.grad(log_det.sum(), layer.weight)
        back, frozen = layer.inverse(z)[0], layer.freeze(shape).inverse(z.detach(), "exact")
        stored = layer.constant_log_det_at(shape)
    assert log_det.tolist() == pytest.approx([expected] * 2, rel=1e-12)
    assert stored == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(frozen, x, rtol=0, atol=1e-9)
    with torch_threads(1):
        (alone,) = torch.autograd.grad(layer(x)[1].sum(), layer.weight)
    torch.testing.assert_close(gradient, alone, rtol=1e-9, atol=1e-9)
