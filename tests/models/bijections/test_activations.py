"""Activations against their formulas written out for one number at a time, far outside and exactly on every edge."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.activations import SmoothLeakyReLU, SplineActivation
from snf_models.bijections.conformance import randomise
from tests.models.helpers import CountedCalls

SHAPE = (2, 3, 2)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.9])
def test_smooth_leaky_relu_and_its_inverse_to_rounding(alpha: float) -> None:
    layer = SmoothLeakyReLU(alpha)
    x = torch.cat([torch.linspace(-1e4, 1e4, 20001), torch.linspace(-60, 60, 20001)]).double().view(1, 2, 1, -1)
    numbers = x.numpy()
    expected = torch.from_numpy(alpha * numbers + (1 - alpha) * np.logaddexp(numbers, 0))
    z, log_det = layer(x)
    torch.testing.assert_close(z, expected, rtol=1e-14, atol=1e-14)
    with np.errstate(over="ignore"):
        slopes = np.log(alpha + (1 - alpha) / (1 + np.exp(-numbers)))
    torch.testing.assert_close(log_det, torch.from_numpy(slopes.sum((1, 2, 3))), rtol=1e-13, atol=0)
    # The numbers of x in the place of z: both directions, over the whole range.
    for latents in (z, x):
        back = layer.inverse(latents)[0]
        residual = layer(back)[0] - latents
        assert (residual.abs() / latents.abs().clamp(min=1)).max() < 1e-12
    assert ((layer.inverse(z)[0] - x).abs() / x.abs().clamp(min=1)).max() < 1e-12
    torch.testing.assert_close(layer.inverse(z)[1], -log_det, rtol=1e-12, atol=0)


def test_smooth_leaky_relu_in_float32_far_outside() -> None:
    layer = SmoothLeakyReLU()
    x = torch.tensor([-1e30, -1e4, -30.0, 0.0, 30.0, 1e4, 1e30]).view(1, -1).requires_grad_()
    z, log_det = layer(x)
    (gradient,) = torch.autograd.grad(z.sum() + log_det, x)
    assert gradient.isfinite().all()
    torch.testing.assert_close(layer.inverse(z)[0], x, rtol=1e-5, atol=1e-5)
    assert log_det.isfinite().all()


@pytest.mark.parametrize("alpha", [0.0, 0.009, 1.0, -0.3, float("nan")])
def test_smooth_leaky_relu_refuses_slopes_that_its_inverse_is_not_proved_for(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"expected alpha in \[0.01, 1\), got"):
        SmoothLeakyReLU(alpha)


def spline(dtype: torch.dtype = torch.float64, bound: float = 10.0, scale: float = 1.0) -> SplineActivation:
    """A spline far from the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = SplineActivation(SHAPE, bound=bound)
    randomise(layer, scale, seed=2)
    return layer.to(dtype)


def edges_by_hand(logits: Any, bound: float) -> list[float]:
    exponentials = [math.exp(v) for v in logits.tolist()]
    edges, sum_of_shares = [-bound], 0.0
    for value in exponentials[:-1]:
        sum_of_shares += 1e-3 + (1 - 1e-3 * len(exponentials)) * value / sum(exponentials)
        edges.append(2 * bound * sum_of_shares - bound)
    return [*edges, bound]


def by_hand(layer: SplineActivation, element: tuple[int, ...], x: float) -> tuple[float, float]:
    """Value and log-slope of one number (Durkan et al. 2019, eq. 4 and 5)."""
    if abs(x) >= layer.bound:
        return x, 0.0
    xs = edges_by_hand(layer.widths.detach()[element], layer.bound)
    ys = edges_by_hand(layer.heights.detach()[element], layer.bound)
    offset = math.log(math.exp(1 - 1e-3) - 1)
    inner = [1e-3 + math.log1p(math.exp(v + offset)) for v in layer.slopes.detach()[element].tolist()]
    slopes = [1.0, *inner, 1.0]
    k = max(i for i in range(len(xs) - 1) if xs[i] <= x)
    width, height = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    mean, theta = height / width, (x - xs[k]) / width
    denominator = mean + (slopes[k + 1] + slopes[k] - 2 * mean) * theta * (1 - theta)
    y = ys[k] + height * (mean * theta**2 + slopes[k] * theta * (1 - theta)) / denominator
    slope = mean**2 * (slopes[k + 1] * theta**2 + 2 * mean * theta * (1 - theta) + slopes[k] * (1 - theta) ** 2)
    return y, math.log(slope / denominator**2)


def edge_cases(layer: SplineActivation, dtype: torch.dtype) -> Tensor:
    """Images whose every element sits on its own knots, of x and of y, a hair beside them, on the ends, far outside."""
    knots = layer.knots()
    on = torch.cat([knots.x, knots.y], dim=1).detach().T.to(dtype)
    beside = [torch.nextafter(on, torch.full_like(on, side)) for side in (-torch.inf, torch.inf)]
    far = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], dtype=dtype)[:, None].expand(5, on.shape[1])
    return torch.cat([on, *beside, far]).reshape(-1, *SHAPE)


@torch.no_grad()
def test_spline_is_the_formula() -> None:
    layer = spline()
    x = torch.cat(
        [
            8 * torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0)).double(),
            edge_cases(layer, torch.float64),
        ]
    )
    z, log_det = layer(x)
    for n, sample in enumerate(x):
        results = {element: by_hand(layer, element, float(sample[element])) for element in np.ndindex(SHAPE)}
        for element, (value, _) in results.items():
            assert math.isclose(float(z[n][element]), value, rel_tol=1e-12, abs_tol=1e-12)
        assert math.isclose(float(log_det[n]), sum(slope for _, slope in results.values()), rel_tol=0, abs_tol=1e-11)


@pytest.mark.parametrize("bound", [1.0, 10.0, 64.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=str)
@torch.no_grad()
def test_spline_inverts_on_every_edge(bound: float, dtype: torch.dtype, tolerance: float) -> None:
    layer = spline(dtype, bound)
    x = edge_cases(layer, dtype)
    for latents in (x, layer(x)[0]):
        back, inverse_log_det = layer.inverse(latents)
        z, log_det = layer(back)
        torch.testing.assert_close(z, latents, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=300 * tolerance)
    torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x, rtol=tolerance, atol=tolerance)
    ends = torch.full((2, *SHAPE), bound, dtype=dtype) * torch.tensor([-1, 1]).view(2, 1, 1, 1)
    for direction in (layer.forward, layer.inverse):
        values, log_det = direction(ends)
        assert torch.equal(values, ends)
        assert (log_det == 0).all()
        assert torch.equal(direction(x[:1])[0], direction(x)[0][:1]), "alone as among others"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_batch_that_lies_outside_altogether_stays_where_it_is(dtype: torch.dtype) -> None:
    layer = spline(dtype)
    x = torch.tensor([-torch.inf, -1e30, -10.5, 10.0, 11.0, torch.inf], dtype=dtype).view(6, 1, 1, 1)
    x = x.expand(6, *SHAPE).clone().requires_grad_()
    for direction in (layer.forward, layer.inverse):
        z, log_det = direction(x)
        assert torch.equal(z, x)
        assert (log_det == 0).all()
        gradient, *of_parameters = torch.autograd.grad(z[1:5].sum() + log_det.sum(), [x, *layer.parameters()])
        assert torch.equal(gradient[1:5], torch.ones_like(gradient[1:5]))
        assert all((g == 0).all() for g in of_parameters)


def test_gradients_are_finite_on_every_edge_and_right() -> None:
    layer = spline()
    x = edge_cases(layer, torch.float64).requires_grad_()
    z, log_det = layer(x)
    gradients = torch.autograd.grad(z.sum() + log_det.sum(), [x, *layer.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    inside = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(4)).double().mul(4).requires_grad_()
    for direction in (layer.forward, layer.inverse):
        assert torch.autograd.gradcheck(direction, (inside,))
    for name, parameter in layer.named_parameters():

        def moved(value: Tensor, name: str = name) -> Any:
            return torch.func.functional_call(layer, {name: value}, (inside.detach(),))

        assert torch.autograd.gradcheck(moved, (parameter,))


def test_not_a_number_stays_one() -> None:
    x = torch.zeros(2, *SHAPE, dtype=torch.float64)
    x[0, 1, 1, 1] = torch.nan
    for direction in (spline().forward, spline().inverse):
        z, log_det = direction(x)
        assert z[0].isnan().sum() == 1
        assert z[1].isfinite().all()
        assert log_det[1].isfinite()


def test_a_spline_starts_close_to_the_identity() -> None:
    x = torch.linspace(-12, 12, 500).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    z, log_det = SplineActivation(SHAPE)(x)
    assert 1e-4 < (z - x).abs().max() < 0.3
    assert log_det.abs().max() < 1


@torch.no_grad()
def test_knots_are_computed_once_a_call_and_never_by_the_frozen_form() -> None:
    layer, x = spline(torch.float32), 6 * torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    with CountedCalls() as calls:
        layer(x.float())
    assert sum("softmax" in name for name in calls.names) == 2
    frozen = layer.freeze(SHAPE)
    with CountedCalls() as calls:
        frozen.inverse(frozen.forward(x)[0], "exact")
    assert not any("softmax" in name for name in calls.names)


@pytest.mark.parametrize(("bins", "bound"), [(1, 10.0), (5, 0.0), (5, -1.0)])
def test_spline_refuses(bins: int, bound: float) -> None:
    with pytest.raises(ValueError, match="at least 2 bins and a positive bound, got"):
        SplineActivation(SHAPE, bins, bound)
