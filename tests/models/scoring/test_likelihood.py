"""An image whose arithmetic overflows has its error in its place, and no effect on others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.errors import ScoreNotFinite
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.torch_engine import TorchEngine
from snf_runtime.scoring.density import Latents
from snf_runtime.scoring.likelihood import score_each, score_images
from snf_runtime.scoring.pixel_density import PixelDensity


class Overflowing(TorchEngine):
    """Overflows on the second of every three draws."""

    def forward(self, y: NDArray[np.float64]) -> Latents:
        latents = super().forward(y)
        first, *rest = latents.log_dets
        first = first.copy()
        first[1::3, 0, 0] = np.inf
        return replace(latents, log_dets=[first, *rest])


def test_an_overflow_stays_with_its_image(artifact: Path) -> None:
    scorer = load_model(artifact, options=EngineOptions("torch"))
    images = np.repeat(scorer.pinned[:1], 5, axis=0)
    images[:, 0, 0] = np.arange(5)[:, None]
    wanted = scorer.score(images)
    density = PixelDensity(
        Overflowing(scorer.trained.pixels.frozen), scorer.trained.pixels.frozen, scorer.log_det_digest
    )
    found = score_each(density, images)
    assert [isinstance(one, ScoreNotFinite) for one in found] == [False, True, False, False, True]
    assert [found[i] for i in (0, 2, 3)] == [wanted[i] for i in (0, 2, 3)]
    with pytest.raises(ScoreNotFinite):
        score_images(density, images)
