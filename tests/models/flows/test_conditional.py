"""Conditional flows p(x | c): integrals, Jacobians, difference quotients and a known conditional normal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from snf_models.bijections.autoregressive import MaskedAutoregressive
from snf_models.bijections.conformance import jacobian_log_det, randomise
from snf_models.bijections.coupling import AffineCoupling, SplineCoupling
from snf_models.bijections.pixels import LogitPixels
from snf_models.errors import ArchitectureInvalid
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow, describe_flow
from snf_models.flows.distribution import FlowDistribution, GaussianBase, vector_flow
from snf_models.flows.flow import Flow, Level
from snf_models.flows.layers import (
    AffineCouplingSpec,
    LayerSpec,
    LUOneByOneSpec,
    MaskedAutoregressiveSpec,
    SelfNormalizingOneByOneSpec,
    SplineCouplingSpec,
)
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.scoring.frozen import freeze
from tests.models.helpers import dequantised, real_images

STEPS: dict[str, tuple[LayerSpec, ...]] = {
    "affine": (LUOneByOneSpec(), AffineCouplingSpec(width=8)),
    "spline": (LUOneByOneSpec(), SplineCouplingSpec(width=8, bins=5)),
    "autoregressive": (MaskedAutoregressiveSpec(width=9), MaskedAutoregressiveSpec(width=9, reverse=True)),
    "learning": (SelfNormalizingOneByOneSpec(), AffineCouplingSpec(width=8)),
}
EVERY_STEP = pytest.mark.parametrize("name", STEPS)
CONTEXTS = torch.tensor([[0.0, 0.0], [4.0, -3.0]], dtype=torch.float64)


def conditional(name: str, dimensions: int = 2) -> FlowDistribution:
    """A random flow over vectors in float64, given a context of two numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        density = vector_flow(dimensions, STEPS[name], repeat=2, context=2).double()
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
@torch.no_grad()
def test_a_density_integrates_to_one_for_each_context_and_samples_have_its_mean(name: str) -> None:
    density = conditional(name)
    # x = sinh(u), dx = cosh(u) du: fine in the middle, where splines have narrow bins, and wide.
    u = torch.linspace(-5, 5, 501, dtype=torch.float64)
    axis, weight = u.sinh(), u.cosh()
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = density.sample((20_000,), context=CONTEXTS)
    assert samples.shape == (20_000, 2, 2)

    def integral(values: Tensor) -> NDArray[np.float64]:
        weighted = torch.einsum("ij...,i,j->ij...", values, weight, weight).numpy()
        return np.asarray(trapezoid(trapezoid(weighted, x=u.numpy(), axis=0), x=u.numpy(), axis=0))

    means = []
    for number, context in enumerate(CONTEXTS):
        p = density.log_prob(grid, context).exp()
        assert float(integral(p)) == pytest.approx(1, abs=1e-4)
        means.append(torch.from_numpy(integral(p[..., None] * grid)))
        error = 5 * float(samples[:, number].std(0).max()) / 20_000**0.5
        torch.testing.assert_close(samples[:, number].mean(0), means[-1], rtol=0, atol=error)
    assert (means[0] - means[1]).abs().max() > 0.1, "the context moves the density"


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
    assert fine is not None
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
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
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
        lambda: vector_flow(2, STEPS["affine"], base=GaussianBase((2,), 3), context=2).log_prob(X.float(), GIVEN),
        "class labels, integers from 0 to 2, got none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        call()


def test_a_file_for_trainings_has_no_context() -> None:
    step = {"type": "affine-coupling", "width": 4, "context": 2}
    with pytest.raises(ArchitectureInvalid, match=r"level 1, step 1 \(`affine-coupling`\), context: there is no such"):
        parse_architecture({"levels": [{"steps": [step]}]})


def test_a_learned_base_stands_below_conditional_layers() -> None:
    base = GaussianBase((2,))
    density = vector_flow(2, STEPS["affine"], repeat=1, base=base, context=2).double()
    plain = FlowDistribution(density.flow, (2,))
    x, context = normal(0, 5, 2), normal(1, 5, 2)
    torch.testing.assert_close(density.log_prob(x, context), plain.log_prob(x, context))
    randomise(base, 0.3)
    latents = density.flow(x.view(5, 2, 1, 1), context).latents[0].flatten(1)
    ratio = Normal(base.mean, base.log_scale.exp()).log_prob(latents) - Normal(0.0, 1.0).log_prob(latents)
    torch.testing.assert_close(density.log_prob(x, context), plain.log_prob(x, context) + ratio.sum(1))
    assert density.sample((3,), context=context).shape == (3, 5, 2)
