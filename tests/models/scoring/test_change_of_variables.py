"""That the number of a flow is a density at all: it integrates to one, by the change of variables."""

import math

import numpy as np
import torch
from torch import Tensor

from snf_models.scorer import Scorer
from snf_models.scoring.torch_engine import TorchEngine
from tests.models.helpers import frozen_glow, images_back, scores_of


class TestChangeOfVariables:
    """That the number is a density at all."""

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
