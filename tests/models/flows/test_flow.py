"""Recomputation of inputs, whitening of the first layers, construction without random weights."""

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ActNorm, ExactConv1x1, SelfNormalizingConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.bijections.pixels import AffinePixels
from snf_models.errors import ArchitectureInvalid
from snf_models.features.flows import TrainedFlows, build_flows
from snf_models.flows.architecture import (
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    PixelArchitecture,
)
from snf_models.flows.build import NoRandomness, build_flow
from snf_models.flows.flow import Flow, Level
from snf_models.pipeline.presets import PRESETS
from snf_models.training.objective import SelfNormalizingObjective
from tests.models.helpers import dequantised, real_images

SIDE = 8
SIZE = {"channels": 1, "height": SIDE, "width": SIDE, "pixel_transform": "affine"}
ARCHITECTURES: dict[str, PixelArchitecture] = {
    "glow": GlowArchitecture.model_validate({**SIZE, "levels": 2, "steps": 4, "hidden": 8}),
    "lu": GlowArchitecture.model_validate({**SIZE, "levels": 1, "steps": 3, "hidden": 8, "linear": "lu"}),
    "convolutions": ConvolutionalArchitecture.model_validate({**SIZE, "blocks": 2, "layers": 2}),
    "exponential": ConvolutionalArchitecture.model_validate({**SIZE, "blocks": 1, "linear": "exponential"}),
    "dense": FullyConnectedArchitecture.model_validate({**SIZE, "layers": 3}),
}


def flow_of(architecture: PixelArchitecture) -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = build_flow(architecture).double()
    flow.initialize(dequantised(real_images(64, SIDE)))
    randomise(flow, 0.05)
    return flow.train()


def gradients(flow: Flow, *, symmetric: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a training step, and its gradients by the name of the parameter."""
    config = TrainingConfig(symmetric_reconstruction=symmetric)
    objective = SelfNormalizingObjective(flow, (1, SIDE, SIDE), config)
    y, log_det = flow.pixels(dequantised(real_images(16, SIDE)))
    loss = objective.loss(flow, y, log_det, 0)
    names, parameters = zip(*flow.named_parameters(), strict=True)
    found = torch.autograd.grad(loss.value, parameters)
    return torch.cat([loss.value.detach()[None], loss.reconstruction_errors]), dict(zip(names, found, strict=True))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_gradients_are_those_of_ordinary_back_propagation(kind: str, symmetric: bool) -> None:
    ordinary = flow_of(ARCHITECTURES[kind])
    recomputing = copy.deepcopy(ordinary)
    recomputing.recompute = True
    expected_loss, expected = gradients(ordinary, symmetric=symmetric)
    loss, found = gradients(recomputing, symmetric=symmetric)
    assert torch.equal(loss, expected_loss)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def saved_bytes(steps: int, *, recompute: bool) -> int:
    """Bytes kept for the backward pass beside the parameters, each memory once."""
    flow = flow_of(ARCHITECTURES["glow"].model_copy(update={"steps": steps, "levels": 1}))
    flow.recompute = recompute
    own = {parameter.untyped_storage().data_ptr() for parameter in flow.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    y, log_det = flow.pixels(dequantised(real_images(16, SIDE)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = flow.forward_pixels(y, log_det)
    assert math.isfinite(float(output.log_likelihood.detach().sum()))
    return sum(kept.values())


def test_memory_does_not_grow_with_the_steps() -> None:
    """Ordinary back-propagation keeps about the same for every step."""
    assert saved_bytes(16, recompute=True) == pytest.approx(saved_bytes(4, recompute=True), rel=0.1)
    assert saved_bytes(16, recompute=False) > 3.5 * saved_bytes(4, recompute=False)


def test_bfloat16_is_refused() -> None:
    """The inverses would amplify its rounding."""
    assert TrainingConfig(recompute=True).precision == "auto"
    with pytest.raises(ValidationError, match="recompute computes in float32: set precision to auto or float32"):
        TrainingConfig(recompute=True, precision="bfloat16")


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
    assert math.isfinite(float(layer.log_abs_det((4, 3, 3))))
    assert torch.linalg.cond(layer.weight) < 1e3
    layer.whiten(torch.ones(2, 4, 3, 3))
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(4), rtol=0, atol=1e-6)


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


def layout(flow: TrainedFlows) -> dict[str, Any]:
    """Shapes, types and strides: sums over other strides may differ in their last bits."""
    return {name: (value.shape, value.dtype, value.stride()) for name, value in flow.state_dict().items()}


@pytest.mark.parametrize("name", sorted(name for name, preset in PRESETS.items() if preset.width <= 128))
def test_a_flow_without_randomness_is_laid_out_as_one_with(name: str) -> None:
    architecture = PRESETS[name].architecture((1, 16, 16), "logit")
    before = torch.get_rng_state()
    with NoRandomness():
        flow = build_flows(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    assert layout(flow) == layout(build_flows(architecture))
