"""Flows whose first 1x1 convolutions start from the whitening of their training images."""

from __future__ import annotations

import math

import pytest
import torch

from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ActNorm, ExactConv1x1, SelfNormalizingConv1x1
from snf_models.bijections.pixels import AffinePixels
from snf_models.errors import ArchitectureInvalid
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow, Level
from tests.models.helpers import dequantised, real_images


def glow(linear: str) -> Flow:
    torch.manual_seed(0)
    return build_flow(
        GlowArchitecture(channels=1, height=28, width=28, levels=2, steps=2, hidden=8, linear=linear)
    ).train()


def correlated(channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(channels, channels, generator=generator)
    return torch.einsum("oc,nchw->nohw", mixing, torch.randn(50, channels, 6, 5, generator=generator)) + 3


@pytest.mark.parametrize("kind", [ExactConv1x1, SelfNormalizingConv1x1])
@torch.no_grad()
def test_a_whitened_layer_gives_uncorrelated_channels_the_strongest_first(kind: type[ExactConv1x1]) -> None:
    layer, x = kind(4).eval(), correlated(4)
    layer.whiten(x)
    z = layer(x)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(z, correction=0), torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    scales = layer.weight.norm(dim=1)
    assert torch.equal(scales, scales.sort().values), "the component of greatest variance is divided by most"
    if isinstance(layer, SelfNormalizingConv1x1):
        torch.testing.assert_close(layer.inverse_weight @ layer.weight, torch.eye(4), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_channel_that_repeats_others_keeps_the_layer_invertible() -> None:
    x = correlated(3)
    layer = SelfNormalizingConv1x1(4).eval()
    layer.whiten(torch.cat([x, x[:, :1]], dim=1))
    assert math.isfinite(float(layer.log_abs_det()))
    assert torch.linalg.cond(layer.weight) < 1e3
    layer.whiten(torch.ones(2, 4, 3, 3))
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("linear", ["exact", "self-normalizing"])
@torch.no_grad()
def test_images_are_likelier_at_the_start_of_a_whitened_flow(linear: str) -> None:
    x = dequantised(real_images(200)).float()
    nats = []
    for whiten in (False, True):
        flow = glow(linear)
        flow.initialize(x, whiten=whiten)
        nats.append(float(flow.eval()(x).log_likelihood.mean()))
    assert nats[1] > nats[0] + 20


@torch.no_grad()
def test_a_convolution_before_a_normalisation_rotates_and_the_normalisation_scales() -> None:
    x = dequantised(real_images(200)).float()
    layers: list[Bijection] = [SelfNormalizingConv1x1(4), ActNorm(4), SelfNormalizingConv1x1(4)]
    flow = Flow(AffinePixels(), [Level(layers)])
    flow.initialize(x, whiten=True)
    rotation = layers[0]
    assert isinstance(rotation, SelfNormalizingConv1x1)
    torch.testing.assert_close(rotation.weight @ rotation.weight.T, torch.eye(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(rotation.inverse_weight, rotation.weight.T, rtol=0, atol=1e-6)
    z = flow.eval()(x).latents[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(z, correction=0), torch.eye(4), rtol=0, atol=1e-4)


def test_a_flow_without_1x1_convolutions_is_not_whitened() -> None:
    with pytest.raises(ArchitectureInvalid, match="whitening: expected a flow with an exact or self-normalizing 1x1"):
        glow("lu").initialize(dequantised(real_images(8)).float(), whiten=True)
