"""Small flows of every family over real images, and their passes in double precision."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.flows.architecture import (
    Architecture,
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    PixelTransform,
)
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.scoring.frozen import FrozenFlow, freeze
from snf_models.scoring.torch_engine import TorchEngine
from snf_runtime.scoring.evidence import FlowPass, run_flow
from tests.models.helpers import dequantised, glow, real_images

GLOWS: list[tuple[int, int, PixelTransform]] = [
    (8, 1, "affine"),
    (8, 3, "logit"),
    (16, 1, "marginal"),
    (16, 3, "affine"),
    (16, 1, "logit"),
]
GLOW_IDS = [f"{channels}x{side}x{side}-{pixels}" for side, channels, pixels in GLOWS]


def off_inverse(flow: Flow) -> Flow:
    """Give every learned inverse an error that is no rounding, as training leaves it."""
    with torch.no_grad():
        for number, layer in enumerate(flow.modules()):
            if isinstance(layer, SelfNormalizingConv1x1):
                noise = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(number))
                layer.inverse_weight.copy_(torch.linalg.inv(layer.weight) + 0.01 * noise)
    return flow


def glow_and_frozen(side: int, channels: int, pixels: PixelTransform) -> tuple[Flow, FrozenFlow]:
    flow = off_inverse(glow(side, channels, pixels=pixels))
    return flow, freeze(flow, (channels, side, side))


def convolutional(side: int = 12, channels: int = 1) -> Flow:
    """Three blocks of a convolution and splines, which are not the identity."""
    architecture = ConvolutionalArchitecture(
        channels=channels, height=side, width=side, pixel_transform="logit", layers=1
    )
    return _random(architecture, 0.03)


def fully_connected(side: int = 6) -> Flow:
    """Two dense layers."""
    architecture = FullyConnectedArchitecture(channels=1, height=side, width=side, pixel_transform="logit")
    return _random(architecture, 0.01)


def one_pass(frozen: FrozenFlow, images: NDArray[np.uint8], seed: int = 0) -> tuple[Tensor, FlowPass]:
    """Dequantised images and what the engine makes of them."""
    x = dequantised(images, seed)
    return x, run_flow(TorchEngine(frozen), frozen, x.numpy())


def images_of(frozen: FrozenFlow, count: int) -> NDArray[np.uint8]:
    """Real digits of a flow's shape."""
    channels, side, _ = frozen.image_shape
    return real_images(count, side, channels)


def _random(architecture: Architecture, scale: float) -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = build_flow(architecture)
    flow.eval()
    randomise(flow, scale)
    return flow
