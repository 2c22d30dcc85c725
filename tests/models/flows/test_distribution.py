"""Flows as distributions, with and without contexts."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.autoregressive import MaskedAutoregressive
from snf_models.bijections.base import SelfNormalizing
from snf_models.bijections.channels import ActNorm
from snf_models.bijections.conformance import jacobian_log_det, mark_initialized, randomise
from snf_models.bijections.coupling import AffineCoupling, SplineCoupling
from snf_models.bijections.pixels import LogitPixels, MarginalPixels
from snf_models.errors import ArchitectureInvalid, SamplesUnsupported
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow, describe_flow
from snf_models.flows.distribution import STEP, FlowDistribution, GaussianBase, vector_flow
from snf_models.flows.flow import Flow, Level, latent_shapes
from snf_models.flows.layers import (
    ActNormSpec,
    AffineCouplingSpec,
    ExactOneByOneSpec,
    LayerSpec,
    LUOneByOneSpec,
    MaskedAutoregressiveSpec,
    SelfNormalizingOneByOneSpec,
    SplineCouplingSpec,
    layer_types,
)
from snf_models.loading.trained import load_distribution
from snf_models.loading.verification import exact_tolerance
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.scorer import Scorer
from snf_models.scoring.frozen import freeze
from snf_models.training.objective import SelfNormalizingObjective
from snf_runtime.scoring.pixel_density import dequantise
from tests.models.flows.densities import PIXELS, STEPS, images, linear, points, vectors
from tests.models.helpers import dequantised, flat_latents, glow, real_images
from tests.support.trained import feature_artifact

DENSITIES: dict[str, Callable[[], FlowDistribution]] = {
    **{name: partial(vectors, name) for name in STEPS},
    **{f"glow-{pixels}": partial(images, pixels) for pixels in PIXELS},
}
EVERY_DENSITY = pytest.mark.parametrize("name", DENSITIES)


def gradients(density: nn.Module, value: Tensor) -> dict[str, Tensor]:
    density.zero_grad()
    torch.autograd.backward(value)
    return {name: p.grad.clone() for name, p in density.named_parameters() if p.grad is not None}


@EVERY_DENSITY
@torch.no_grad()
def test_log_prob_is_that_of_the_whole_jacobian_in_both_modes(name: str) -> None:
    density = DENSITIES[name]()
    x = points(density)
    as_images = x.view(len(x), *density.image_shape)
    reference = copy.deepcopy(density.flow).eval()
    with torch.enable_grad():
        log_det = jacobian_log_det(lambda part: flat_latents(reference, part), as_images)
    expected = Normal(0.0, 1.0).log_prob(flat_latents(reference, as_images)).sum(1) + log_det
    for mode in (True, False):
        torch.testing.assert_close(density.train(mode).log_prob(x), expected, rtol=1e-9, atol=1e-6)
        assert {module.training for module in density.modules()} == {mode}
    # Any leading shape, none included.
    torch.testing.assert_close(density.log_prob(x.view(2, 2, *density.event_shape)), expected.view(2, 2))
    torch.testing.assert_close(density(x[0]), expected[0])


@pytest.mark.parametrize("layer_type", layer_types(), ids=lambda layer_type: layer_type.type_name())
def test_no_points_have_no_densities(layer_type: type[LayerSpec]) -> None:
    """Such as those that a mask selects, where it selects none."""
    given = {"kernel": 1, "width": 8}
    settings = {name: value for name, value in given.items() if name in layer_type.model_fields}
    density = vector_flow(4, (layer_type.model_validate(settings), ExactOneByOneSpec()), repeat=1)
    mark_initialized(density.flow)
    nothing = torch.zeros(0, 4)
    assert density.log_prob(nothing).shape == density.self_normalizing_objective(nothing).shape == (0,)
    assert density.sample((0,)).shape == (0, 4)


@EVERY_DENSITY
def test_gradients_of_log_prob_do_not_depend_on_the_mode_or_on_recomputation(name: str) -> None:
    density = DENSITIES[name]()
    x = points(density)
    expected = gradients(density, density.eval().log_prob(x).mean())
    assert any(float(gradient.abs().max()) > 0 for gradient in expected.values())
    for recompute in (False, True):
        density.flow.recompute = recompute
        trained = gradients(density, density.train().log_prob(x).mean())
        assert trained.keys() == expected.keys()
        for key, gradient in expected.items():
            torch.testing.assert_close(trained[key], gradient, rtol=1e-8, atol=1e-9)
    learning = [module for module in density.modules() if isinstance(module, SelfNormalizing)]
    for layer in learning:
        with pytest.raises(RuntimeError, match="expected a forward pass in training mode"):
            layer.pop_reconstruction_error()


def test_a_linear_flow_is_a_multivariate_normal() -> None:
    density, layer = linear()
    inverse = torch.linalg.inv(layer.weight.detach())
    normal = MultivariateNormal(-inverse @ layer.bias.detach(), inverse @ inverse.T)
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(density.log_prob(x).detach(), normal.log_prob(x), rtol=1e-12, atol=1e-12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = density.sample((100, 400))
        assert not samples.requires_grad
        drawn = samples.flatten(0, 1)
        torch.testing.assert_close(drawn.mean(0), normal.mean, rtol=0.05, atol=0.05)
        torch.testing.assert_close(drawn.T.cov(), normal.covariance_matrix, rtol=0.05, atol=0.05)
        # The reparameterised samples are W^-1 (e - b) of the same noise e.
        torch.manual_seed(5)
        x = density.rsample((7,))
        torch.manual_seed(5)
        noise = torch.randn(7, 3, dtype=torch.float64)
    weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    expected = torch.linalg.solve(weight, (noise - bias).T).T
    torch.testing.assert_close(x, expected)
    torch.autograd.backward([x.square().sum(), expected.square().sum()])
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    torch.testing.assert_close(layer.bias.grad, bias.grad)


@pytest.mark.parametrize("name", STEPS)
@torch.no_grad()
def test_a_density_of_the_plane_integrates_to_one(name: str) -> None:
    # Narrow bins of splines need a fine grid, and slopes of 0.3 a wide one.
    side, step = (20.0, 0.05) if name == "default" else (60.0, 0.2)
    density = vectors(name, dimensions=2)
    axis = torch.arange(-side, side, step, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    mass = density.log_prob(grid).exp() * step**2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    # Samples have the mean of the density, which is elsewhere than that of the base.
    mean = (mass[..., None] * grid).sum((0, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = density.sample((20_000,))
    error = 5 * float(samples.std(0).max()) / len(samples) ** 0.5
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=error)


@EVERY_DENSITY
def test_gradients_of_samples_are_difference_quotients(name: str) -> None:
    density, step = DENSITIES[name](), 1e-8
    direction = [
        torch.randn(p.shape, generator=torch.Generator().manual_seed(3)).double() for p in density.parameters()
    ]

    def drawn() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return density.rsample((3,)).sin().sum()

    found = gradients(density, drawn())
    slope = sum(
        float((found[name] * along).sum())
        for (name, _), along in zip(density.named_parameters(), direction, strict=True)
        if name in found
    )
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, along in zip(density.parameters(), direction, strict=True):
                parameter.add_(sign * step * along)
            values.append(float(drawn()))
    quotient = (values[0] - values[1]) / (2 * step)
    assert abs(quotient) > 1e-2
    assert slope == pytest.approx(quotient, rel=1e-4)


@pytest.mark.parametrize("name", ["default", "dense", "glow-logit"])
def test_the_objective_has_the_gradients_of_training(name: str) -> None:
    """Also in evaluation mode, and beside the loss that the training of models minimises."""
    density, weight = DENSITIES[name]().eval(), 3.0
    x = points(density)
    objective = density.self_normalizing_objective(x, reconstruction_weight=weight)
    found = gradients(density, objective.mean())
    assert objective.shape == (len(x),)
    assert not any(module.training for module in density.modules())

    shape = density.image_shape
    config = TrainingConfig(reconstruction_weight=weight, gradient="paper")
    training = SelfNormalizingObjective(density.flow.train(), shape, config)
    y, log_det = density.flow.pixels(x.view(-1, *shape))
    loss = training.loss(density.flow, y, log_det, step=0).value * x[0].numel()
    torch.testing.assert_close(-loss, objective.mean())
    expected = gradients(density, -loss)
    assert expected.keys() == found.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient)


def test_the_objective_of_an_exact_flow_is_its_log_density() -> None:
    density = vectors("coupling")
    x = points(density)
    assert torch.equal(density.self_normalizing_objective(x), density.log_prob(x))


def test_a_last_level_that_splits_is_refused() -> None:
    level = Level([ActNorm(4)], prior=AffineCoupling(4, 8))
    with pytest.raises(ValueError, match="a last level without a prior"):
        Flow(LogitPixels(), [level])


def test_it_is_a_distribution_of_pytorch() -> None:
    density = vectors("default")
    assert isinstance(density, Distribution)
    assert (density.batch_shape, density.event_shape, density.has_rsample) == ((), (3,), True)
    x = points(density, 5)
    log_normal = TransformedDistribution(density, [ExpTransform()])
    torch.testing.assert_close(log_normal.log_prob(x.exp()), density.log_prob(x) - x.sum(1))
    expanded = density.expand((5,))
    assert (expanded.batch_shape, density.batch_shape) == ((5,), ())
    assert expanded.sample((2,)).shape == (2, 5, 3)
    torch.testing.assert_close(Independent(expanded, 1).log_prob(x), density.log_prob(x).sum())
    torch.testing.assert_close(expanded.log_prob(x[0]), density.log_prob(x[0]).expand(5))
    own = dict(density.named_parameters())
    assert all(parameter is own[name] for name, parameter in expanded.named_parameters())
    loaded = vector_flow(3, STEP, repeat=2).double()
    loaded.load_state_dict(density.state_dict())
    assert torch.equal(loaded.log_prob(x), density.log_prob(x))


@pytest.mark.parametrize("name", ["affine", "logit", "marginal"])
@torch.no_grad()
def test_support_and_types(name: str) -> None:
    density = images(name).eval()
    x = dequantised(real_images(4, 8))
    expected = density.log_prob(x)
    assert expected.dtype == torch.float64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert density.support.check(density.sample((50,))).all()
    single = density.float()
    for pixels in (x, x.float()):
        log_prob = single.log_prob(pixels)
        assert log_prob.dtype == torch.float32
        torch.testing.assert_close(log_prob.double(), expected, rtol=1e-4, atol=1e-2)
    assert single.sample((2,)).dtype == torch.float32
    if isinstance(single.flow.pixels, MarginalPixels):
        assert single.flow.pixels.masses.dtype == torch.float64
        before = images(name).flow.pixels.get_buffer("masses")
        assert torch.equal(single.flow.pixels.masses, before)


def test_it_moves_to_another_device() -> None:
    # No element of a tensor on this device can be compared, so arguments are not checked.
    moved = FlowDistribution(vectors("default").flow, (3,), validate_args=False).to("meta")
    assert moved.log_prob(torch.empty(2, 3, device="meta")).device.type == "meta"
    assert moved.sample((2,)).device.type == "meta"


def test_actnorm_is_initialised_from_vectors() -> None:
    density = vector_flow(2, (ActNormSpec(),), repeat=1).double()
    x = torch.tensor([[100.0, -1.0], [102.0, 3.0]], dtype=torch.float64)
    density.initialize(x)
    expected = Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1)
    torch.testing.assert_close(density.log_prob(x).detach(), expected)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "event": (lambda: FlowDistribution(glow(), (8, 8)), r"\(C, H, W\) or of a vector \(D,\), got \(8, 8\)"),
    "shape": (lambda: vectors("dense").log_prob(torch.zeros(5, 2).double()), r"\(\.\.\., 3\), got \(5, 2\)"),
    "too-few": (lambda: images().log_prob(torch.zeros(8).double()), r"\(\.\.\., 1, 8, 8\), got \(8,\)"),
    "bytes": (lambda: images().log_prob(torch.zeros(1, 8, 8, dtype=torch.uint8)), "real numbers, got torch.uint8"),
    "outside": (lambda: images().log_prob(torch.full((1, 8, 8), 257.0)), r"Interval.*got 64 of 64 outside"),
    "nan": (lambda: vectors("dense").log_prob(torch.full((3,), torch.nan)), r"Real\(\), got 3 of 3 outside"),
    "coupling": (lambda: vector_flow(1, STEPS["coupling"]), r"step 1.2 \(`affine-coupling`\): expected at least 2"),
    "no-context": (lambda: vectors("dense").log_prob(torch.zeros(3), torch.zeros(1)), "expected no context: .*normal"),
    "no-classes": (lambda: GaussianBase((3,))(torch.zeros(1)), "expected no context: .* no classes"),
    "no-labels": (GaussianBase((3,), 4), "integers from 0 to 3, got none"),
    "real-labels": (lambda: GaussianBase((3,), 4)(torch.zeros(2)), "integers from 0 to 3, got torch.float32"),
    "label": (lambda: GaussianBase((3,), 4)(torch.tensor([1, 4])), "from 0 to 3, got labels from 1 to 4"),
    "base": (lambda: vectors("dense", base=GaussianBase((2,))).sample((4,)), r"latents \(3,\), got one of \(2,\)"),
    "classes": (lambda: GaussianBase((3,), 0), "at least one class, got 0"),
}


def test_a_model_gives_the_log_densities_that_its_scorer_gives(artifact: Path, scorer: Scorer) -> None:
    """A log-likelihood is the log-density at the image plus the noise that belongs to image and model."""
    density = load_distribution(artifact).double()
    pixels = real_images(4)
    x = torch.from_numpy(dequantise(pixels, scorer.log_det_digest))
    log_prob = density.log_prob(x).tolist()
    for found, score in zip(log_prob, scorer.score(pixels), strict=True):
        assert found == pytest.approx(
            score.log_likelihood, abs=exact_tolerance(scorer.density.dimensions, score.log_likelihood)
        )


def test_a_model_of_features_is_no_distribution_of_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(SamplesUnsupported, match="a density of features"):
        load_distribution(feature_artifact(tmp_path_factory))


def test_classes_have_a_multivariate_normal_each() -> None:
    base = GaussianBase((3,), classes=2)
    density, layer = linear(base)
    inverse = torch.linalg.inv(layer.weight.detach())
    deviations = base.log_scale.detach().exp()
    normals = [
        MultivariateNormal(inverse @ (mean - layer.bias.detach()), inverse @ deviation.square().diag() @ inverse.T)
        for mean, deviation in zip(base.mean.detach(), deviations, strict=True)
    ]
    x = points(density, 6)
    by_class = torch.stack([normal.log_prob(x) for normal in normals], dim=1)
    # One context for each value, and each class for each value.
    torch.testing.assert_close(density.log_prob(x, context=torch.arange(2)[:, None]).detach(), by_class.T)
    torch.testing.assert_close(density.log_prob(x[:, None], context=torch.arange(2)).detach(), by_class)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    own = by_class.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(density.log_prob(x, context=labels).detach(), own)
    torch.testing.assert_close(density.self_normalizing_objective(x, context=labels).detach(), own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = density.sample((20_000,), context=torch.tensor([0, 1]))
        drawn = density.rsample((2, 5), context=labels[None])
    assert (samples.shape, drawn.shape) == ((20_000, 2, 3), (2, 5, 1, 6, 3))
    for number, normal in enumerate(normals):
        torch.testing.assert_close(samples[:, number].mean(0), normal.mean, rtol=0.05, atol=0.05)
        torch.testing.assert_close(samples[:, number].T.cov(), normal.covariance_matrix, rtol=0.05, atol=0.05)
    torch.autograd.backward(drawn.sum())
    assert base.mean.grad.abs().min() > 0


class TwoBumps(nn.Module):
    """A mixture of two normal distributions, which has no ``rsample``."""

    def forward(self, _context: Tensor | None) -> Distribution:
        means = torch.tensor([[-4.0], [4.0]])
        bumps = Independent(Normal(means.expand(2, 3), 0.1), 1)
        return MixtureSameFamily(Categorical(torch.tensor([0.25, 0.75])), bumps)


def test_samples_of_a_base_without_rsample() -> None:
    density = vector_flow(3, (LUOneByOneSpec(),), repeat=1, base=TwoBumps()).double()
    torch.manual_seed(1)
    x = density.sample((400,))
    assert (x.shape, x.dtype) == ((400, 3), torch.float64)
    latents = density.flow(x.view(400, 3, 1, 1)).latents[-1].view(400, 3)
    upper = latents > 0
    assert torch.equal(upper.all(1), upper.any(1)), "all values of a sample are of the same bump"
    assert upper[:, 0].double().mean().item() == pytest.approx(0.75, abs=0.08)
    assert (latents.abs() - 4).abs().max().item() < 0.6
    with pytest.raises(NotImplementedError):
        density.rsample((2,))


def test_a_context_is_broadcast_with_the_batch_shape() -> None:
    density = vectors("coupling", 2, GaussianBase((2,), classes=3)).expand((3,))
    labels = torch.tensor([0, 1, 2])
    x = density.sample((5,), context=labels)
    assert x.shape == (5, 3, 2)
    each = [density.expand(()).log_prob(x[:, label], context=labels[label]) for label in range(3)]
    assert torch.allclose(density.log_prob(x, context=labels), torch.stack(each, 1), rtol=1e-12, atol=0)


def test_a_learned_base_of_images_shifts_their_coarsest_latents() -> None:
    flow = glow(16, pixels="affine").double()
    *_, coarsest = latent_shapes(flow, (1, 16, 16))
    base = GaussianBase(coarsest)
    plain = FlowDistribution(flow, (1, 16, 16)).double()
    learned = FlowDistribution(flow, (1, 16, 16), base).double()
    x = dequantised(real_images(3, 16))
    torch.testing.assert_close(learned.log_prob(x), plain.log_prob(x))
    randomise(base, 0.2)
    fine, latent = flow.eval()(x).latents
    assert (fine.shape[1:], latent.shape[1:]) == (latent_shapes(flow, (1, 16, 16))[0], coarsest)
    ratio = Normal(base.mean, base.log_scale.exp()).log_prob(latent) - Normal(0.0, 1.0).log_prob(latent)
    torch.testing.assert_close(learned.log_prob(x), plain.log_prob(x) + ratio.sum((1, 2, 3)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = learned.sample((500,))
    back = flow(samples).latents[1]
    torch.testing.assert_close(back.mean(0), base.mean, rtol=0, atol=0.35)
    assert samples.shape == (500, 1, 16, 16)


GIVEN_STEPS: dict[str, tuple[LayerSpec, ...]] = {
    "affine": (LUOneByOneSpec(), AffineCouplingSpec(width=8)),
    "spline": (LUOneByOneSpec(), SplineCouplingSpec(width=8, bins=5)),
    "autoregressive": (MaskedAutoregressiveSpec(width=9), MaskedAutoregressiveSpec(width=9, reverse=True)),
    "learning": (SelfNormalizingOneByOneSpec(), AffineCouplingSpec(width=8)),
}
EVERY_STEP = pytest.mark.parametrize("name", GIVEN_STEPS)


def conditional(name: str, dimensions: int = 2) -> FlowDistribution:
    """A random flow over vectors in float64, given a context of two numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        density = vector_flow(dimensions, GIVEN_STEPS[name], repeat=2, context=2).double()
    randomise(density, 0.2)
    return density


def conditional_glow() -> FlowDistribution:
    """A random Glow of two levels, given a context of two numbers, in float64."""
    glow = GlowArchitecture(channels=1, height=16, width=16, levels=2, steps=1, hidden=8, pixel_transform="logit")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        density = FlowDistribution(build_flow(glow, context=2), (1, 16, 16))
    density.initialize(dequantised(real_images(64, 16)).float(), torch.ones(64, 2))
    randomise(density, 0.1)
    return density.double()


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@EVERY_STEP
def test_log_prob_is_that_of_the_whole_jacobian_at_each_context(name: str) -> None:
    density = conditional(name, 3).eval()
    x, context = normal(0, 5, 3), normal(1, 5, 2)

    def latents(vectors: Tensor, given: Tensor) -> Tensor:
        return density.flow(vectors.view(-1, 3, 1, 1), given).latents[0].flatten(1)

    expected = Normal(0.0, 1.0).log_prob(latents(x, context)).sum(1) + jacobian_log_det(latents, x, context)
    for mode in (True, False):
        torch.testing.assert_close(density.train(mode).log_prob(x, context), expected, rtol=1e-10, atol=1e-9)
    # Each context for each value.
    table = density.log_prob(x[:, None], context)
    torch.testing.assert_close(table.diagonal(), expected)
    torch.testing.assert_close(table[0, 1], density.log_prob(x[0], context[1]))
    assert density.log_prob(x[0], context).shape == (5,)


@torch.no_grad()
def test_images_given_a_context() -> None:
    density = conditional_glow()
    x, context = dequantised(real_images(2, 16)), normal(1, 2, 2)
    flow = density.flow.eval()

    def latents(pixels: Tensor, given: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in flow(pixels, given).latents], 1)

    expected = Normal(0.0, 1.0).log_prob(latents(x, context)).sum(1) + jacobian_log_det(latents, x, context)
    torch.testing.assert_close(density.log_prob(x, context), expected, rtol=1e-9, atol=1e-6)
    assert (density.log_prob(x, context + 1) - expected).abs().min() > 1
    back = flow.inverse(flow(x, context).latents, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)
    learned = flow.inverse(flow(x, context).latents, context, learned=True)
    assert (learned - x).abs().max() > 1e-3, "the learned inverses of the 1x1 convolutions were moved at random"
    assert density.sample((3,), context=context).shape == (3, 2, 1, 16, 16)
    # The split prior depends on the context, too.
    fine = flow.level_list()[0].prior
    assert fine.context == 2


@EVERY_STEP
def test_gradients_in_the_context_are_difference_quotients(name: str) -> None:
    density, x = conditional(name, 3), normal(0, 4, 3)
    context, direction = normal(1, 4, 2).requires_grad_(), normal(2, 4, 2)

    def drawn(given: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return density.rsample((2,), context=given).sin().sum()

    for value in (lambda given: density.log_prob(x, given).sum(), drawn):
        (gradient,) = torch.autograd.grad(value(context), context)
        with torch.no_grad():
            quotient = (value(context + 1e-6 * direction) - value(context - 1e-6 * direction)) / 2e-6
        assert abs(float(quotient)) > 1e-2
        assert float((gradient * direction).sum()) == pytest.approx(float(quotient), rel=1e-5)


@EVERY_STEP
def test_recomputation_keeps_the_gradients(name: str) -> None:
    density, x = conditional(name, 3).train(), normal(0, 4, 3)
    context = normal(1, 4, 2).requires_grad_()
    found = []
    for recompute in (False, True):
        density.flow.recompute = recompute
        value = density.self_normalizing_objective(x, context).sum()
        found.append(torch.autograd.grad(value, [context, *density.parameters()], allow_unused=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_training_finds_a_conditional_normal() -> None:
    """x | c is normal with mean B c and covariance L L^T: a flow that is affine in x given c can be exact."""
    factor = torch.tensor([[0.5, 0.0], [0.4, 0.3]], dtype=torch.float64)
    slope = torch.tensor([[1.0, -0.5], [0.3, 0.8]], dtype=torch.float64)
    context = normal(0, 2000, 2)
    x = context @ slope.T + normal(1, 2000, 2) @ factor.T
    true = MultivariateNormal(context @ slope.T, scale_tril=factor).log_prob(x).mean()
    marginal = MultivariateNormal(torch.zeros(2).double(), slope @ slope.T + factor @ factor.T).log_prob(x).mean()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        density = vector_flow(2, (MaskedAutoregressiveSpec(width=32),), repeat=1, context=2).double()
    optimizer = torch.optim.Adam(density.parameters(), lr=1e-2)
    for part, given in list(zip(x.split(200), context.split(200), strict=True)) * 30:
        optimizer.zero_grad()
        torch.autograd.backward(-density.log_prob(part, given).mean())
        optimizer.step()
    with torch.no_grad():
        found = density.log_prob(x, context).mean()
        samples = density.sample((4000,), context=torch.tensor([1.5, -1.0]))
    assert float(marginal) < float(true) - 1
    assert float(found) == pytest.approx(float(true), abs=0.06)
    torch.testing.assert_close(samples.mean(0), slope @ torch.tensor([1.5, -1.0]).double(), rtol=0, atol=0.2)


def hand_built(*lengths: int) -> Flow:
    return Flow(LogitPixels(), [Level([AffineCoupling(4, 4, context=length) for length in lengths])])


X, GIVEN = torch.zeros(5, 2).double(), torch.zeros(5, 2).double()
IMAGES = torch.ones(5, 1, 2, 2)
REFUSED_CONTEXTS: dict[str, tuple[Callable[[], object], str]] = {
    "none": (lambda: conditional("affine").log_prob(X), r"a context of shape \(\.\.\., 2\), got none; class labels"),
    "none-drawn": (lambda: conditional("affine").sample((4,)), r"a context of shape \(\.\.\., 2\), got none"),
    "length": (lambda: conditional("affine").log_prob(X, X[:, :1]), r"shape \(\.\.\., 2\), got \(5, 1\)"),
    "labels": (lambda: conditional("affine").log_prob(X, torch.arange(5)), r"got \(5,\); class labels .* one-hot"),
    "nan": (lambda: conditional("affine").log_prob(X, GIVEN * torch.nan), "finite numbers, got NaN"),
    "flow": (lambda: hand_built(2)(IMAGES), r"of shape \(5, 2\), got none"),
    "unconditional": (lambda: hand_built(0)(IMAGES, GIVEN), r"no layer of this flow takes one; got \(5, 2\)"),
    "layer": (
        lambda: AffineCoupling(2, 4)(IMAGES.expand(5, 2, 2, 2), GIVEN.float()),
        "no context: the layer takes none",
    ),
    "lengths": (lambda: hand_built(2, 3), r"a context of one length, got lengths \[2, 3\]"),
    "no-taker": (lambda: vector_flow(2, (LUOneByOneSpec(),), context=2), "as affine-coupling, for context=2, got none"),
    "negative": (lambda: SplineCoupling(2, 4, context=-1), "the length of a context, 0 for none, got -1"),
    "frozen-layer": (lambda: MaskedAutoregressive(2, 4, context=3).freeze((2, 1, 1)), "no context, .* of 3 numbers"),
    "frozen-flow": (lambda: freeze(conditional("spline").flow, (2, 1, 1)), "no context, .* of 2 numbers: models that"),
    "frozen-glow": (lambda: freeze(conditional_glow().flow, (1, 16, 16)), "use FlowDistribution in Python"),
    "described": (lambda: describe_flow(hand_built(2), (1, 8, 8)), "no context, got .* of 2 numbers"),
    "classes": (
        lambda: vector_flow(2, GIVEN_STEPS["affine"], base=GaussianBase((2,), 3), context=2).log_prob(X.float(), GIVEN),
        "class labels, integers from 0 to 2, got none",
    ),
}


@pytest.mark.parametrize(("call", "text"), [*REFUSED.values(), *REFUSED_CONTEXTS.values()])
def test_what_is_refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_a_file_for_trainings_has_no_context() -> None:
    step = {"type": "affine-coupling", "width": 4, "context": 2}
    with pytest.raises(ArchitectureInvalid, match=r"level 1, step 1 \(`affine-coupling`\), context: there is no such"):
        parse_architecture({"levels": [{"steps": [step]}]})
