"""Builder of flows from their architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from models.bijections.actnorm import ActNorm
from models.bijections.base import Bijection, Elementwise, Shape
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
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    PixelArchitecture,
    PixelTransform,
)
from models.flows.flow import Flow, Level

PIXEL_TRANSFORMS: dict[PixelTransform, Callable[[], Elementwise]] = {
    "affine": AffinePixels,
    "logit": LogitPixels,
    "marginal": MarginalPixels,
}
Layer = TypeVar("Layer", bound=Callable[..., Bijection])

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
CONVOLUTIONS: dict[str, Callable[[Shape, int], Bijection]] = {
    "exact": lambda shape, kernel: ExactConv(shape[0], (kernel, kernel)),
    "self-normalizing": lambda shape, kernel: SelfNormalizingConv(shape[0], (kernel, kernel)),
    "self-normalizing-two-layer": lambda shape, kernel: TwoLayerInverseConv(shape[0], (kernel, kernel)),
    "emerging": lambda shape, _kernel: EmergingConv(shape[0]),
    "exponential": lambda shape, _kernel: ExponentialConv(shape),
}
"""Linear layers by the ``linear`` of an architecture, made from channels, dimensions, or shape and kernel size."""


def build_flow(architecture: PixelArchitecture) -> Flow:
    """Return a new, untrained flow with the layers that ``architecture`` gives and random initial weights.

    The weights come from torch's global generator. Before use the flow must be initialised with a batch
    (:meth:`~models.flows.flow.Flow.initialize`) or its weights loaded.

    Raises:
        ValueError: The architecture asks for a linear layer that is not in the tables of this module.
    """
    if isinstance(architecture, GlowArchitecture):
        levels = _glow(architecture)
    elif isinstance(architecture, ConvolutionalArchitecture):
        levels = _convolutional(architecture)
    else:
        levels = [_fully_connected(architecture)]
    return Flow(PIXEL_TRANSFORMS[architecture.pixel_transform](), levels)


def _glow(architecture: GlowArchitecture) -> list[Level]:
    linear = _layer(CONVOLUTIONS_1X1, architecture)
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
    linear = _layer(CONVOLUTIONS, architecture)
    channels, size = architecture.channels, (architecture.height, architecture.width)
    levels = []
    for block in range(architecture.blocks):
        if block > 0:
            channels, size = 4 * channels, (size[0] // 2, size[1] // 2)
        steps: list[Bijection] = []
        for layer in range(architecture.layers):
            steps.append(linear((channels, *size), architecture.kernel))
            # No activation after the last layer, whose outputs are the latents.
            if block < architecture.blocks - 1 or layer < architecture.layers - 1:
                steps.append(SplineActivation((channels, *size)))
        levels.append(Level(steps, squeeze=block > 0))
    return levels


def _fully_connected(architecture: FullyConnectedArchitecture) -> Level:
    dimensions = architecture.channels * architecture.height * architecture.width
    linear = _layer(DENSE_LAYERS, architecture)
    steps: list[Bijection] = []
    for layer in range(architecture.layers):
        steps.append(linear(dimensions))
        if layer < architecture.layers - 1:
            steps.append(SmoothLeakyReLU())
    return Level(steps, squeeze=False)


def _layer(layers: Mapping[str, Layer], architecture: PixelArchitecture) -> Layer:
    if architecture.linear not in layers:
        raise ValueError(f"expected a linear layer of {', '.join(layers)}, got {architecture.linear!r}")
    return layers[architecture.linear]
