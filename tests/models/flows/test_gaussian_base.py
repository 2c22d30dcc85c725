"""Flows with learned and class-conditional base distributions, against multivariate normals in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from snf_models.bijections.conformance import randomise
from snf_models.flows.distribution import FlowDistribution, GaussianBase, vector_flow
from snf_models.flows.flow import latent_shapes
from snf_models.flows.layers import LUOneByOneSpec
from tests.models.flows.densities import linear, points, vectors
from tests.models.helpers import dequantised, glow, real_images


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
    assert base.mean.grad is not None
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
