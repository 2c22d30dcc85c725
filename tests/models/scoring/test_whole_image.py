"""Statistics of the whole image against numpy on the unfrozen flow in double precision, and their distributions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.bijections.activations import SplineActivation
from snf_models.bijections.coupling import AffineCoupling
from snf_models.datasets import load_dataset
from snf_models.flows.architecture import PixelTransform
from snf_models.flows.flow import Flow
from snf_models.scorer import Scorer
from snf_models.scoring.frozen import freeze
from snf_runtime.scoring.evidence import (
    horizontal,
    kurtosis,
    radius,
    residual_entropy,
    statistic_names,
    vertical,
    whole_image_statistics,
)
from tests.models.anomaly.flows import GLOW_IDS, GLOWS, convolutional, glow_and_frozen, images_of, one_pass

Array = NDArray[np.float64]
LOG2 = math.log(2)


def latent_statistics(e: Array) -> dict[str, Array]:
    """Of whitened latents ``(N, C, H, W)``, image by image."""
    found: dict[str, list[float]] = {"radius": [], "kurtosis": [], "horizontal": [], "vertical": []}
    for one in e:
        energy = float((one**2).mean())
        found["radius"].append(math.log(energy))
        found["kurtosis"].append(float((one**4).mean()) / energy**2 - 3)
        found["horizontal"].append(float((one[:, :, 1:] * one[:, :, :-1]).sum()) / (energy * one.size))
        found["vertical"].append(float((one[:, 1:] * one[:, :-1]).sum()) / (energy * one.size))
    return {name: np.array(values) for name, values in found.items()}


@torch.no_grad()
def by_hand(flow: Flow, x: Tensor, images: NDArray[np.uint8]) -> dict[str, Array]:
    """Every statistic but reconstruction, from the layers of ``flow``, which is in double precision."""
    found: dict[str, Array] = {"complexity": residual_entropy(images)}
    size = images[0].size
    y, log_det = flow.pixels(x)
    found["pixel-term"] = -log_det.numpy() / (size * LOG2)
    for number, level in enumerate(flow.level_list(), start=1):
        volume = np.zeros(len(x))
        dimensions = y[0].numel()
        for step in level.bijections():
            y, step_log_det = step(y)
            if isinstance(step, AffineCoupling | SplineActivation):
                volume += step_log_det.numpy()
        found[f"volume-{number}"] = -volume / (dimensions * LOG2)
        latent = y
        if level.prior is not None:
            whitened, prior_log_det = level.prior(y)
            y, latent = whitened[:, : level.prior.kept], whitened[:, level.prior.kept :]
            found[f"spread-{number}"] = -prior_log_det.numpy() / (latent[0].numel() * LOG2)
        if level.prior is not None or level is flow.level_list()[-1]:
            found |= {f"{name}-{number}": value for name, value in latent_statistics(latent.numpy()).items()}
    return found


def check(flow: Flow, shape: tuple[int, int, int]) -> None:
    frozen = freeze(flow, shape)
    images = images_of(frozen, 7)
    x, found = one_pass(frozen, images)
    got = whole_image_statistics(images, found)
    expected = by_hand(flow.double(), x, images)
    names = statistic_names(frozen)
    assert got.shape == (7, len(names))
    assert set(names) - set(expected) == {name for name in names if name.startswith("reconstruction-")}
    assert set(expected) <= set(names)
    for column, name in enumerate(names):
        if name in expected:
            np.testing.assert_allclose(got[:, column], expected[name], rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(("side", "channels", "pixels"), GLOWS, ids=GLOW_IDS)
def test_statistics_of_a_glow(side: int, channels: int, pixels: PixelTransform) -> None:
    check(glow_and_frozen(side, channels, pixels)[0], (channels, side, side))


@pytest.mark.parametrize(("side", "channels"), [(12, 1), (8, 3)])
def test_statistics_of_convolutions_and_splines(side: int, channels: int) -> None:
    check(convolutional(side, channels), (channels, side, side))


def promised(statistic: Callable[[Array], Array], d: int, height: int, width: int) -> tuple[float, float]:
    """Mean and variance that the docstrings give, with the means of order 1/d that they leave out."""
    table: dict[Callable[[Array], Array], tuple[float, float]] = {
        radius: (-1 / d, 2 / d),
        kurtosis: (-6 / d, 24 / d),
        horizontal: (0.0, (width - 1) / (width * d)),
        vertical: (0.0, (height - 1) / (height * d)),
    }
    return table[statistic]


@pytest.mark.parametrize("shape", [(2, 14, 14), (8, 7, 7), (3, 4, 16)])
@pytest.mark.parametrize("statistic", [radius, kurtosis, horizontal, vertical])
def test_distribution_on_latents_that_are_normal(
    statistic: Callable[[Array], Array], shape: tuple[int, int, int]
) -> None:
    draws = 4000
    d = int(np.prod(shape))
    generator = torch.Generator().manual_seed(d)
    values = statistic(torch.randn(draws, *shape, generator=generator, dtype=torch.float64).numpy())
    mean, variance = promised(statistic, d, *shape[1:])
    assert abs(values.mean() - mean) < 4.5 * math.sqrt(variance / draws)
    # The next order of the variance: kurtosis has 24/d (1 - 15/d + ...).
    assert values.var() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / draws) + 20 / d)


def rank(values: Array) -> int:
    centred = values - values.mean(0)
    return int(np.linalg.matrix_rank(centred / centred.std(0), tol=1e-7 * math.sqrt(len(values))))


def test_no_statistic_is_a_linear_combination_of_others(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    scored = scorer.score(np.concatenate([digits.statistics, digits.test]))
    whole = np.concatenate([one.evidence.whole for one in scored])
    assert len(whole) == 150
    assert rank(whole) == whole.shape[1] == len(statistic_names(scorer.trained.pixels.frozen))
    # The check sees one that is: bits/dim of the first level added as a column.
    assert rank(np.column_stack([whole, whole[:, 2] + 0.5 * whole[:, 3] - 2 * whole[:, 0]])) == whole.shape[1]
