"""Multipliers, reconstruction penalties and the measures of a learned inverse."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.base import SelfNormalizing, Shape
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.bijections.convolution import SelfNormalizingConv, TwoLayerInverseConv
from snf_models.bijections.dense import SelfNormalizingDense
from snf_models.bijections.pixels import AffinePixels
from snf_models.flows.flow import Flow, Level
from snf_models.training.objective import (
    DampedMultiplier,
    FixedMultiplier,
    GecoMultiplier,
    MultiplierRule,
    SelfNormalizingObjective,
    inverse_quality,
    make_multiplier,
    operator_norm,
)
from tests.models.helpers import dequantised, real_images

SHAPE = (2, 4, 4)
LAYERS: dict[str, Callable[[], SelfNormalizing]] = {
    "dense": lambda: SelfNormalizingDense(32),
    "conv1x1": lambda: SelfNormalizingConv1x1(2),
    "conv": lambda: SelfNormalizingConv(2),
    "two-layer": lambda: TwoLayerInverseConv(2),
}
EVERY_LAYER = pytest.mark.parametrize("kind", LAYERS)
ADAPTIVE = pytest.mark.parametrize("rule", ["geco", "mdmm"])


def flow_of(kind: str, scale: float = 0.05, count: int = 1) -> Flow:
    """A flow of ``count`` layers of this kind for images of ``SHAPE``, float64, training mode, W and R moved apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = Flow(AffinePixels(), [Level([LAYERS[kind]() for _ in range(count)], squeeze=False)]).double().train()
    randomise(flow, scale, seed=1)
    return flow


def only_layer(flow: Flow) -> SelfNormalizing:
    (layer,) = (module for module in flow.modules() if isinstance(module, SelfNormalizing))
    return layer


def objective_for(flow: Flow, **settings: Any) -> SelfNormalizingObjective:
    return SelfNormalizingObjective(flow, SHAPE, TrainingConfig.model_validate(settings))


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    """Real digits after the pixel transform, two a sample as channels, and the log-det of that transform."""
    y, log_det = AffinePixels()(dequantised(real_images(count, 4, 2)))
    return y, log_det


def dense(linear: Callable[[Tensor], Tensor], shape: Shape = SHAPE) -> Tensor:
    """The matrix of a linear map of images, ``(D, D)``: its values on the unit vectors."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return linear(units).flatten(1).T


def step_gradients(flow: Flow, objective: SelfNormalizingObjective, step: int = 0) -> list[Tensor]:
    """Gradients of the loss by the layer's parameters."""
    y, log_det = batch()
    parameters = list(flow.parameters())
    return list(torch.autograd.grad(objective.loss(flow, y, log_det, step).value, parameters))


class TestMultipliers:
    """What the multipliers do with the errors that they are shown."""

    def test_the_fixed_one_is_the_papers_penalty(self) -> None:
        errors = torch.tensor([0.1, 2.0, 0.0])
        multiplier = make_multiplier("fixed", 3, 7.0, 1e-3)
        assert isinstance(multiplier, FixedMultiplier)
        assert float(multiplier.penalty(errors)) == pytest.approx(7 * 2.1)
        multiplier.update(errors)
        assert multiplier.values().tolist() == [7, 7, 7]

    @ADAPTIVE
    def test_it_moves_both_ways_a_little_at_a_time(self, rule: MultiplierRule) -> None:
        multiplier = make_multiplier(rule, 2, 5.0, 0.1)
        for factor, sign in ((40.0, 1), (0.0, -1)):
            start = multiplier.values().clone()
            # The average of geco takes time to turn round.
            for _ in range(1000):
                before = multiplier.values().clone()
                multiplier.update(torch.tensor([0.1 * factor, 0.1]))
                after = multiplier.values()
                if rule == "geco":
                    assert ((after / before).log().abs() <= 0.01 * (1 + 1e-4)).all()
                else:
                    assert ((after - before).abs() <= 0.001 * (1 + 1e-4)).all()
            assert sign * float(multiplier.values()[0] - start[0]) > 0
            # A layer at its target stays where it is.
            assert float(multiplier.values()[1]) == pytest.approx(5.0)

    @ADAPTIVE
    def test_it_stays_within_its_limits(self, rule: MultiplierRule) -> None:
        multiplier = make_multiplier(rule, 2, 1.0, 0.1)
        lowest, highest = (1e-4, 1e3) if rule == "geco" else (0.0, math.inf)
        for error in (1e6, 0.0):
            errors, values = torch.full((2,), error), []
            for _ in range(2000 if error else 3100):
                multiplier.update(errors)
                values.append(multiplier.values().clone())
            assert (torch.stack(values) >= lowest * (1 - 1e-5)).all()
            assert (torch.stack(values) <= highest * (1 + 1e-5)).all()
        assert multiplier.values().tolist() == pytest.approx([lowest] * 2, rel=1e-5)

    def test_geco_starts_within_its_limits(self) -> None:
        assert float(GecoMultiplier(1, 0.0, 0.1).values()) == pytest.approx(1e-4)
        assert float(GecoMultiplier(1, 1e6, 0.1).values()) == pytest.approx(1e3)

    @ADAPTIVE
    @pytest.mark.parametrize("error", [math.nan, math.inf])
    def test_errors_that_are_not_finite_are_passed_over(self, rule: MultiplierRule, error: float) -> None:
        multiplier = make_multiplier(rule, 2, 5.0, 0.1)
        before = {name: value.clone() for name, value in multiplier.state_dict().items()}
        multiplier.update(torch.tensor([error, 1.0]))
        assert all(torch.equal(value, before[name]) for name, value in multiplier.state_dict().items())

    def test_penalties_of_adaptive_multipliers_are_their_formulas(self) -> None:
        errors = torch.tensor([0.3, 0.05])
        assert float(GecoMultiplier(2, 5.0, 0.1).penalty(errors)) == pytest.approx(5 * 0.35 + 0.05 * 2**2)
        assert float(DampedMultiplier(2, 5.0, 0.1).penalty(errors)) == pytest.approx(5 * 1.5 + 0.05 * 2**2)

    @pytest.mark.parametrize(("rule", "weight", "steps"), [("geco", 4.0, 800), ("mdmm", 0.1, 350)])
    def test_a_layer_in_training_settles_at_the_target(self, rule: MultiplierRule, weight: float, steps: int) -> None:
        """From a penalty far too weak; a target that the mixture alone, which pulls R off W^-1, does not meet."""
        target = 2e-3
        unconstrained, _ = settle(rule="fixed", weight=weight, target=target, steps=150)
        assert unconstrained > 10 * target
        reached, multiplier = settle(rule=rule, weight=weight, target=target, steps=steps)
        assert reached == pytest.approx(target, rel=0.1)
        # That of mdmm is in units of the constraint, rho / target.
        assert 10 < multiplier / (1 if rule == "geco" else target) < 100


def settle(rule: str, weight: float, target: float, steps: int) -> tuple[float, float]:
    """Train one convolution on digits; return the mean error of the last steps, and the multiplier."""
    flow = flow_of("conv", scale=0.02)
    objective = objective_for(flow, multiplier=rule, reconstruction_weight=weight, reconstruction_target=target)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    y, log_det = batch(64)
    errors = []
    for step in range(steps):
        loss = objective.loss(flow, y, log_det, step)
        optimizer.zero_grad()
        torch.autograd.backward(loss.value)
        optimizer.step()
        objective.update(loss, step)
        errors.append(float(loss.reconstruction_error))
    return sum(errors[-100:]) / 100, float(objective.multiplier.values())


@EVERY_LAYER
def test_the_loss_is_the_papers_with_a_fixed_multiplier(kind: str) -> None:
    """-mean log p / D + lambda Σ_k mean ||R W h - h||² / D, h what enters the layer (Keller et al. 2021, eq. 3)."""
    flow = flow_of(kind, count=2)
    y, log_det = batch()
    loss = objective_for(flow, reconstruction_weight=3.0).loss(flow, y, log_det, step=0)
    entering, errors, dimensions = y, [], y[0].numel()
    for layer in flow.level_list()[0].bijections():
        errors.append((layer.reconstruct(entering) - entering).square().sum((1, 2, 3)).mean() / dimensions)
        entering = layer.eval()(entering)[0]
    log_prior = -0.5 * entering.square().sum((1, 2, 3)) - 0.5 * dimensions * math.log(2 * math.pi)
    torch.testing.assert_close(loss.log_likelihood, (log_prior + log_det).mean().detach())
    torch.testing.assert_close(loss.reconstruction_errors, torch.stack(errors).detach())
    torch.testing.assert_close(loss.value, -loss.log_likelihood / dimensions + 3 * torch.stack(errors).sum())


@EVERY_LAYER
def test_every_layer_takes_the_gradient_that_is_asked_for(kind: str) -> None:
    """A Newton-Schulz step from R is nearer to W^-1, and so is the gradient of W to that of the exact log-det."""
    flow = flow_of(kind, scale=0.01)
    layer = only_layer(flow)
    weight = layer.get_parameter("weight")
    (exact,) = torch.autograd.grad(torch.linalg.slogdet(dense(layer.apply_weight)).logabsdet, weight)

    def distance(gradient: str) -> float:
        objective_for(flow, gradient=gradient)
        (estimate,) = torch.autograd.grad(layer(batch()[0])[1].mean(), weight)
        return float((2 * estimate - exact).norm())

    assert distance("newton-schulz") < 0.5 * distance("paper")


@EVERY_LAYER
def test_white_noise_sees_the_whole_of_the_inverse(kind: str) -> None:
    """E ||e - R W e||² = ||I - R W||_F², the draws of many steps against the matrix."""
    flow = flow_of(kind)
    layer = only_layer(flow)
    objective = objective_for(flow, noise_reconstruction=1.0)
    y, log_det = batch()
    objective.noise_weight, without = 0.0, objective.noise_weight
    plain = objective.loss(flow, y, log_det, 0).reconstruction_errors
    objective.noise_weight = without
    with torch.no_grad():
        draws = torch.stack(
            [objective.loss(flow, y, log_det, step).reconstruction_errors - plain for step in range(1500)]
        )
        expected = float((torch.eye(32) - dense(layer.reconstruct)).square().sum()) / 32
    standard_error = float(draws.std()) / len(draws) ** 0.5
    assert standard_error < 0.05 * expected
    assert float(draws.mean()) == pytest.approx(expected, abs=4 * standard_error)
    again = objective.loss(flow, y, log_det, 7).reconstruction_errors - plain
    torch.testing.assert_close(again, draws[7], rtol=0, atol=0)


@EVERY_LAYER
def test_the_gradient_of_white_noise_is_that_of_automatic_differentiation(kind: str) -> None:
    flow, step = flow_of(kind), 5
    layer = only_layer(flow)
    settings = {"reconstruction_weight": 2.0, "seed": 3}
    without = step_gradients(flow, objective_for(flow, **settings), step)
    found = step_gradients(flow, objective_for(flow, **settings, noise_reconstruction=0.5), step)
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3 << 32 | step)).double()
    inverse_of_noise = layer.apply_inverse_weight(layer.apply_weight(noise))
    penalty = 2.0 * 0.5 * (noise - inverse_of_noise).square().sum() / 32
    parameters = list(flow.parameters())
    expected = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
    for got, base, gradient in zip(found, without, expected, strict=True):
        torch.testing.assert_close(got - base, gradient, rtol=1e-10, atol=1e-12)


def test_symmetric_reconstruction_is_asked_of_every_layer() -> None:
    flow = flow_of("conv", count=2)
    objective_for(flow, symmetric_reconstruction=True)
    layers = [module for module in flow.modules() if isinstance(module, SelfNormalizing)]
    assert [layer.symmetric for layer in layers] == [True, True]


@EVERY_LAYER
def test_right_after_a_refresh_the_log_det_gradient_of_w_is_exact(kind: str) -> None:
    """Refreshed at the third step; the log-det share of the layer against log|det| of the whole matrix."""
    flow = flow_of(kind)
    layer = only_layer(flow)
    objective = objective_for(flow, refresh_inverse_every=3)
    y, log_det = batch()
    weight = layer.get_parameter("weight")

    def off() -> float:
        (learned,) = torch.autograd.grad(layer(y)[1].mean(), weight)
        exact_log_det = torch.linalg.slogdet(dense(layer.apply_weight)).logabsdet
        (exact,) = torch.autograd.grad(exact_log_det, weight)
        return float((2 * learned - exact).norm() / exact.norm())

    distances = []
    for step in range(3):
        objective.update(objective.loss(flow, y, log_det, step), step)
        distances.append(off())
    assert min(distances[:2]) > 1e-3
    assert distances[2] < 1e-12


@pytest.mark.parametrize("kind", ["dense", "conv1x1"])
def test_an_inverse_that_is_corrected_on_all_directions_is_exact_and_not_trained(kind: str) -> None:
    flow = flow_of(kind)
    layer = only_layer(flow)
    before = layer.inverse_weight.clone()
    objective = objective_for(flow, corrected_directions=1000, reconstruction_weight=0.0)
    loss = objective.loss(flow, *batch(), 0)
    torch.autograd.backward(loss.value)
    assert layer.weight.grad is not None
    assert layer.inverse_weight.grad is None
    objective.update(loss, 0, torch.tensor(False))
    assert torch.equal(layer.inverse_weight, before)
    objective.update(loss, 0, torch.tensor(True))
    torch.testing.assert_close(layer.inverse_weight, torch.linalg.inv(layer.weight), rtol=1e-9, atol=1e-9)
    torch.autograd.backward(objective_for(flow).loss(flow, *batch(), 0).value)
    assert layer.inverse_weight.grad is not None, "another training learns it again"


class TestInverseQuality:
    """What a validation says of the learned inverses."""

    @EVERY_LAYER
    @pytest.mark.parametrize("scale", [0.005, 0.02])
    def test_error_and_bound_are_those_of_dense_matrices(self, kind: str, scale: float) -> None:
        flow = flow_of(kind, scale)
        layer = only_layer(flow)
        ((_, found),) = inverse_quality(flow, SHAPE, probes=4096).items()
        with torch.no_grad():
            weight, inverse = dense(layer.apply_weight), dense(layer.apply_inverse_weight)
            error = torch.eye(32) - inverse @ weight
            norm = float(torch.linalg.matrix_norm(error, 2))
            bound = float(torch.linalg.matrix_norm(inverse, 2)) * norm / (1 - norm)
            distance = float(torch.linalg.matrix_norm(torch.linalg.inv(weight) - inverse, 2))
        assert found.error == pytest.approx(float(error.norm()) / 32**0.5, rel=0.05)
        # The norms are estimates from below; those of the bound must still be near enough to say what it says.
        assert 0.99 * bound < found.bound < bound * (1 + 1e-9)
        assert found.bound > distance

    @EVERY_LAYER
    def test_no_bound_where_the_error_is_too_large(self, kind: str) -> None:
        flow = flow_of(kind)
        with torch.no_grad():
            for name, parameter in flow.named_parameters():
                if name.endswith("inverse_weight"):
                    parameter.mul_(-1)
        if kind == "two-layer":
            # Two changes of sign are none.
            with torch.no_grad():
                only_layer(flow).get_parameter("first_inverse_weight").mul_(-1)
        ((_, found),) = inverse_quality(flow, SHAPE).items()
        assert found.bound is None
        assert found.error > 1.5

    @torch.no_grad()
    def test_a_perfect_inverse_has_no_error_and_a_bound_of_nothing(self) -> None:
        flow = flow_of("dense")
        only_layer(flow).refresh_inverse(SHAPE)
        ((name, found),) = inverse_quality(flow, SHAPE).items()
        assert name == "levels.0.steps.0"
        assert found.error < 1e-12
        assert found.bound < 1e-12

    def test_the_norm_is_a_lower_estimate_that_grows_to_the_norm(self) -> None:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(40, 40, generator=generator, dtype=torch.float64)
        start = torch.randn(1, 40, generator=generator, dtype=torch.float64)
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        found = [operator_norm(lambda x: x @ matrix.T, start, iterations) for iterations in (1, 5, 30, 300)]
        assert found == sorted(found)
        assert found[-1] == pytest.approx(exact, rel=1e-6)
        assert found[-1] <= exact * (1 + 1e-12)
