"""Builds flows from their descriptions."""

from __future__ import annotations

from collections.abc import Callable

from models.bijections.actnorm import ActNorm
from models.bijections.base import Bijection, Elementwise
from models.bijections.conv1x1 import ExactConv1x1, LUConv1x1, SelfNormalizingConv1x1
from models.bijections.convolution import ExactConv, SelfNormalizingConv
from models.bijections.coupling import AffineCoupling
from models.bijections.dense import ExactDense, RelativeGradientDense, SelfNormalizingDense
from models.bijections.emerging import EmergingConv
from models.bijections.exponential import ExponentialConv
from models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from models.bijections.smooth_leaky_relu import SmoothLeakyReLU
from models.bijections.spline import SplineActivation
from models.bijections.two_layer_inverse import TwoLayerInverseConv
from models.flows.architecture import (
    Architecture,
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    PixelTransform,
)
from models.flows.flow import Flow, Level

PIXEL_TRANSFORMS: dict[PixelTransform, Callable[[], Elementwise]] = {
    "affine": AffinePixels,
    "logit": LogitPixels,
    "marginal": MarginalPixels,
}
CONVOLUTIONS_1X1: dict[str, Callable[[int], Bijection]] = {
    "exact": ExactConv1x1,
    "self-normalizing": SelfNormalizingConv1x1,
    "lu": LUConv1x1,
}
DENSE_LAYERS: dict[str, Callable[[int], Bijection]] = {
    "exact": ExactDense,
    "self-normalizing": SelfNormalizingDense,
    "relative": RelativeGradientDense,
}


def build_flow(architecture: Architecture) -> Flow:
    """Build the flow with fresh weights (torch's global generator); it must be initialised or loaded before use."""
    if isinstance(architecture, GlowArchitecture):
        levels = _glow(architecture)
    elif isinstance(architecture, ConvolutionalArchitecture):
        levels = _convolutional(architecture)
    else:
        levels = [_fully_connected(architecture)]
    return Flow(PIXEL_TRANSFORMS[architecture.pixel_transform](), levels)


def _glow(architecture: GlowArchitecture) -> list[Level]:
    linear = CONVOLUTIONS_1X1[architecture.linear]
    channels = architecture.channels
    levels = []
    for index in range(architecture.levels):
        channels *= 4
        steps: list[Bijection] = []
        for _ in range(architecture.steps):
            steps += [ActNorm(channels), linear(channels), AffineCoupling(channels, architecture.hidden)]
        last = index == architecture.levels - 1
        prior = None if last else AffineCoupling(channels, architecture.hidden)
        levels.append(Level(steps, prior))
        channels = channels if prior is None else prior.kept
    return levels


def _convolutional(architecture: ConvolutionalArchitecture) -> list[Level]:
    kernel = (architecture.kernel, architecture.kernel)
    convolutions: dict[str, Callable[[int], Bijection]] = {
        "exact": lambda channels: ExactConv(channels, kernel),
        "self-normalizing": lambda channels: SelfNormalizingConv(channels, kernel),
        "self-normalizing-two-layer": lambda channels: TwoLayerInverseConv(channels, kernel),
        "emerging": EmergingConv,
        "exponential": lambda channels: ExponentialConv((channels, *size)),
    }
    channels, size = architecture.channels, (architecture.height, architecture.width)
    levels = []
    for block in range(architecture.blocks):
        if block > 0:
            channels, size = 4 * channels, (size[0] // 2, size[1] // 2)
        steps: list[Bijection] = []
        for layer in range(architecture.layers):
            steps.append(convolutions[architecture.linear](channels))
            # No activation at the very end: the last linear layer meets the Gaussian.
            if block < architecture.blocks - 1 or layer < architecture.layers - 1:
                steps.append(SplineActivation((channels, *size)))
        levels.append(Level(steps, squeeze=block > 0))
    return levels


def _fully_connected(architecture: FullyConnectedArchitecture) -> Level:
    dimensions = architecture.channels * architecture.height * architecture.width
    steps: list[Bijection] = []
    for layer in range(architecture.layers):
        steps.append(DENSE_LAYERS[architecture.linear](dimensions))
        if layer < architecture.layers - 1:
            steps.append(SmoothLeakyReLU())
    return Level(steps, squeeze=False)
