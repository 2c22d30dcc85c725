"""That the number of a flow is a density at all: it integrates to one, by the change of variables."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ActNorm, SelfNormalizingConv1x1
from snf_models.bijections.conformance import mark_initialized, randomise
from snf_models.bijections.coupling import AffineCoupling
from snf_models.flows.flow import standard_normal_log_prob
from snf_models.scorer import Scorer
from snf_models.scoring.torch_engine import TorchEngine
from tests.models.helpers import frozen_glow, images_back, scores_of


class TestChangeOfVariables:
    """That the number is a density at all."""

    def steps(self) -> list[Bijection]:
        """Two channels, one pixel: the layers of a step, thrice, with everything random."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers: list[Bijection] = []
            for _ in range(3):
                layers += [ActNorm(2), SelfNormalizingConv1x1(2), AffineCoupling(2, 16)]
        for index, layer in enumerate(layers):
            mark_initialized(layer)
            randomise(layer.double().eval(), 0.15, seed=index)
        return layers

    @torch.no_grad()
    def test_a_flow_of_two_numbers_integrates_to_one(self) -> None:
        steps = self.steps()

        def log_density(x: Tensor) -> Tensor:
            log_det = torch.zeros(len(x), dtype=torch.float64)
            for layer in steps:
                x, step_log_det = layer(x)
                log_det = log_det + step_log_det
            return standard_normal_log_prob(x) + log_det

        axis = torch.linspace(-16, 16, 201, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
        density = torch.cat([log_density(part) for part in torch.split(grid, 100_000)]).exp().view(len(axis), -1)
        edges = torch.cat([density[0], density[-1], density[:, 0], density[:, -1]])
        assert edges.max() < 1e-9, "the grid covers the density"
        volume = float(density.sum()) * float(axis[1] - axis[0]) ** 2
        assert abs(volume - 1) <= 1e-3
        # It is no normal distribution: its logarithm has a slope that a quadratic has not.
        third = density.clamp_min(1e-300).log()[75:126:12, 100].diff(n=3)
        assert third.abs().max() > 1e-2

    @torch.no_grad()
    def test_samples_score_as_their_entropy_says(self) -> None:
        """-E log p of samples, scored forward, is H = E[-log N(z)] + E[log|det df^-1/dz|], from other latents."""
        count = 4000
        flow, frozen, _ = frozen_glow(16, 1, "affine")
        engine = TorchEngine(frozen, count // 4)

        def latents(seed: int) -> list[Tensor]:
            generator = torch.Generator().manual_seed(seed)
            return [
                torch.randn(count, *shape, generator=generator, dtype=torch.float64) for shape in frozen.latent_shapes()
            ]

        x = images_back(engine, frozen, [scale.numpy() for scale in latents(1)])
        scores = scores_of(engine, frozen, x)

        # Independently: other latents, the unfrozen flow, the log-dets of the inverse direction.
        scales = latents(2)
        flow.double()
        surprise = torch.zeros(count, dtype=torch.float64)
        y = torch.empty(0)
        for level, scale in zip(reversed(flow.level_list()), reversed(scales), strict=True):
            surprise += 0.5 * scale.square().sum((1, 2, 3)) + 0.5 * scale[0].numel() * math.log(2 * math.pi)
            if level.prior is None:
                y = scale
            else:
                y, log_det = level.prior.inverse(torch.cat([y, scale], dim=1))
                surprise += log_det
            for bijection in reversed(list(level.bijections())):
                y, log_det = bijection.inverse(y)
                surprise += log_det
        surprise += flow.pixels.inverse(y)[1]

        difference = float(scores.mean() + surprise.mean())
        standard_error = math.sqrt(float(scores.var() + surprise.var()) / count)
        assert standard_error < 0.5
        assert abs(difference) < 4 * standard_error

    def test_samples_of_a_model(self, scorer: Scorer) -> None:
        images = scorer.sample(6, seed=3)
        assert images.dtype == np.uint8
        assert images.shape == (6, 1, 28, 28)
        assert np.array_equal(images, scorer.sample(6, seed=3))
        assert not np.array_equal(images, scorer.sample(6, seed=4))
        more = scorer.trained.sampler.sample_continuous(9, seed=3)
        assert np.abs(more[:6] - scorer.trained.sampler.sample_continuous(6, seed=3)).max() < 1e-3
        assert np.abs(scorer.trained.sampler.sample_continuous(6, seed=3, inverse="learned") - more[:6]).max() > 0
        calm = scorer.trained.sampler.sample_continuous(2, temperature=0.0, seed=3)
        assert np.abs(calm[0] - calm[1]).max() < 1e-6, "without temperature all samples are the mode of the base"
