"""Statistics of channels against loops over the latents of the unfrozen flow in double precision."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.flows.architecture import PixelTransform
from snf_models.flows.flow import Flow
from snf_models.scoring.frozen import freeze
from snf_runtime.scoring.evidence import (
    MAX_CHANNELS,
    channel_statistic_names,
    channel_statistics,
    energies,
    falling,
    is_channel_statistic,
    rising,
    statistic_names,
)
from tests.models.anomaly.flows import (
    GLOW_IDS,
    GLOWS,
    convolutional,
    fully_connected,
    glow_and_frozen,
    images_of,
    one_pass,
)

Array = NDArray[np.float64]


@torch.no_grad()
def latents_of(flow: Flow, x: Tensor) -> list[Array]:
    """The latents of each level, by the layers of a flow in double precision."""
    found = []
    y = flow.pixels(x)[0]
    for level in flow.level_list():
        for step in level.bijections():
            y = step(y)[0]
        latent = y
        if level.prior is not None:
            whitened = level.prior(y)[0]
            y, latent = whitened[:, : level.prior.kept], whitened[:, level.prior.kept :]
        if level.prior is not None or level is flow.level_list()[-1]:
            found.append(latent.numpy())
    return found


def diagonals(latent: Array) -> tuple[float, float]:
    """Correlations of one image's latents, ``(C, H, W)``, along both diagonals, value by value."""
    down = up = 0.0
    channels, height, width = latent.shape
    for channel in range(channels):
        for i in range(height - 1):
            for j in range(width - 1):
                down += latent[channel, i, j] * latent[channel, i + 1, j + 1]
                up += latent[channel, i + 1, j] * latent[channel, i, j + 1]
    total = float((latent**2).sum())
    return down / total, up / total


def check(flow: Flow, shape: tuple[int, int, int]) -> list[str]:
    """Compare the statistics of real images; return their names."""
    frozen = freeze(flow, shape)
    images = images_of(frozen, 3)
    x, found = one_pass(frozen, images)
    got, names = channel_statistics(found), channel_statistic_names(frozen)
    assert got.shape == (3, len(names))
    assert all(map(is_channel_statistic, names))
    assert not any(map(is_channel_statistic, statistic_names(frozen)))
    expected: dict[str, Array] = {}
    levels = [number for number, level in enumerate(frozen.levels, start=1) if level.latent_shape is not None]
    for number, latent in zip(levels, latents_of(flow.double(), x), strict=True):
        if min(latent.shape[2:]) == 1:
            continue
        if 1 < latent.shape[1] <= MAX_CHANNELS:
            for channel in range(latent.shape[1]):
                mean_squares = [float((image[channel] ** 2).mean()) for image in latent]
                expected[f"energy-{number}-{channel + 1}"] = np.log(mean_squares)
        both = np.array([diagonals(image) for image in latent])
        expected |= {f"falling-{number}": both[:, 0], f"rising-{number}": both[:, 1]}
    assert names == tuple(expected)
    for column, name in enumerate(names):
        np.testing.assert_allclose(got[:, column], expected[name], rtol=1e-4, atol=2e-6, err_msg=name)
    return list(names)


@pytest.mark.parametrize(("side", "channels", "pixels"), GLOWS, ids=GLOW_IDS)
def test_statistics_of_a_glow(side: int, channels: int, pixels: PixelTransform) -> None:
    names = check(glow_and_frozen(side, channels, pixels)[0], (channels, side, side))
    assert names[:2] == ["energy-1-1", "energy-1-2"]


def test_a_level_of_many_channels_has_no_energies_of_its_own() -> None:
    names = check(glow_and_frozen(16, 3, "affine")[0], (3, 16, 16))
    _, frozen = glow_and_frozen(16, 3, "affine")
    last = frozen.levels[-1]
    assert last.latent_shape[0] > MAX_CHANNELS
    assert [name for name in names if name.partition("-")[2].startswith(f"{len(frozen.levels)}")] == [
        f"falling-{len(frozen.levels)}",
        f"rising-{len(frozen.levels)}",
    ]


def test_statistics_of_convolutions() -> None:
    assert check(convolutional(12, 1), (1, 12, 12))


def test_a_flow_that_mixes_all_pixels_has_none() -> None:
    frozen = freeze(fully_connected(), (1, 6, 6))
    assert channel_statistic_names(frozen) == ()
    assert channel_statistics(one_pass(frozen, images_of(frozen, 4))[1]).shape == (4, 0)


@pytest.mark.parametrize("shape", [(2, 14, 14), (8, 7, 7), (3, 4, 16)])
def test_distributions_on_latents_that_are_normal(shape: tuple[int, int, int]) -> None:
    draws, (channels, height, width) = 4000, shape
    d = channels * height * width
    generator = torch.Generator().manual_seed(d)
    latent = torch.randn(draws, *shape, generator=generator, dtype=torch.float64).numpy()
    along = (height - 1) * (width - 1) / (height * width * d)
    for values, mean, variance in (
        (energies(latent)[:, -1], -1 / (height * width), 2 / (height * width)),
        (falling(latent), 0.0, along),
        (rising(latent), 0.0, along),
    ):
        assert abs(values.mean() - mean) < 4.5 * math.sqrt(variance / draws)
        assert values.var() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / draws) + 20 / (height * width))
