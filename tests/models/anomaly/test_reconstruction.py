"""The reconstruction error of folded affine steps against R W x - x by the layers they were folded from."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.channels import ActNorm, ExactConv1x1, SelfNormalizingConv1x1
from snf_models.bijections.conformance import mark_initialized, randomise
from snf_models.bijections.frozen import FrozenAffine
from snf_models.flows.architecture import PixelTransform
from snf_models.flows.flow import Flow
from snf_models.scoring.frozen import freeze
from snf_runtime.scoring.evidence import statistic_names, whole_image_statistics
from tests.models.anomaly.flows import fully_connected, glow_and_frozen, images_of, one_pass
from tests.models.helpers import glow


def layers(channels: int, seed: int) -> tuple[ActNorm, SelfNormalizingConv1x1]:
    scale, mixing = ActNorm(channels), SelfNormalizingConv1x1(channels)
    mark_initialized(scale)
    for number, layer in enumerate((scale, mixing)):
        randomise(layer.double().eval(), 0.2, seed=10 * seed + number)
    return scale, mixing


def relative(back: Tensor, x: Tensor) -> Tensor:
    return (back - x).square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))


@torch.no_grad()
def test_folded_layers() -> None:
    channels = 4
    chain = [*layers(channels, 1), *layers(channels, 2)]
    x = torch.randn(5, channels, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    folded = chain[0].freeze((channels, 6, 3))
    for layer in chain[1:]:
        folded = folded.then(layer.freeze((channels, 6, 3)))
    back = x
    for layer in chain:
        back = layer(back)[0]
    for layer in reversed(chain):
        back = layer.approximate_inverse(back)
    got = folded.reconstruction_error(x)
    assert got is not None
    torch.testing.assert_close(got, relative(back, x), rtol=1e-9, atol=0)


@torch.no_grad()
def test_what_has_none() -> None:
    scale = layers(4, 1)[0].freeze((4, 6, 3))
    exact = ExactConv1x1(4).freeze((4, 6, 3))
    x = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    for step in (scale, exact, scale.then(exact)):
        assert step.reconstruction_error(x) is None
        assert not step.has_reconstruction_error
    dense = [step for step in freeze(fully_connected(), (1, 6, 6)).levels[0].steps if isinstance(step, FrozenAffine)]
    assert dense
    assert all(step.learned_map is not None and step.reconstruction_error(x) is None for step in dense)
    assert not any("reconstruction" in name for name in statistic_names(freeze(glow(16, linear="exact"), (1, 16, 16))))


@torch.no_grad()
def errors_of_levels(flow: Flow, x: Tensor) -> list[Tensor]:
    """||R W x - x||² / ||x||² of every actnorm and convolution together, ``(N, layers)`` a level."""
    found = []
    y = flow.pixels(x)[0]
    for level in flow.level_list():
        before, errors = y, []
        for step in level.bijections():
            if isinstance(step, ActNorm):
                before, scale = y, step
            y = step(y)[0]
            if isinstance(step, SelfNormalizingConv1x1):
                errors.append(relative(scale.inverse(step.approximate_inverse(y))[0], before))
        if level.prior is not None:
            y = level.prior(y)[0][:, : level.prior.kept]
        found.append(torch.stack(errors, 1))
    return found


@pytest.mark.parametrize(("side", "channels", "pixels"), [(8, 1, "affine"), (16, 1, "logit"), (16, 3, "marginal")])
def test_layers_of_a_flow(side: int, channels: int, pixels: PixelTransform) -> None:
    flow, frozen = glow_and_frozen(side, channels, pixels)
    images = images_of(frozen, 5)
    x, found = one_pass(frozen, images)
    expected = errors_of_levels(flow.double(), x)
    names, values = statistic_names(frozen), whole_image_statistics(images, found)
    for number, errors in enumerate(expected, start=1):
        np.testing.assert_allclose(found.latents.reconstruction_errors[number - 1], errors, rtol=1e-4)
        column = values[:, names.index(f"reconstruction-{number}")]
        np.testing.assert_allclose(column, np.log(errors.numpy()).mean(1), atol=1e-4, rtol=0)
