"""What an architecture costs, layer by layer: learned numbers, multiply-adds, numbers held. Free of torch.

Mirrors :mod:`models.flows.build`, in the order of its layers; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from models.flows.architecture import (
    Architecture,
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
)

Kind = Literal["actnorm", "channels", "convolution", "dense", "coupling", "spline", "activation"]

SPLINE_PARAMETERS = 14
"""Widths and heights of five bins and four slopes, an element."""
EXPONENTIAL_TERMS = 6
"""Terms of the series in training."""


@dataclass(frozen=True)
class LayerCost:
    """One bijection.

    ``multiply_adds``: of one image's forward pass. ``numbers``: what its output, and what it keeps for the gradient,
    hold of one image; ``hidden``: those of them in the hidden layers of a network. ``linear``: the sort of a linear
    layer, "" of the others; ``kernel``: the side of a convolution's.
    """

    kind: Kind
    shape: tuple[int, int, int]
    parameters: int
    multiply_adds: int
    numbers: int
    linear: str = ""
    hidden: int = 0
    kernel: int = 1

    @property
    def learns_inverse(self) -> bool:
        """Whether a learned inverse stands beside the map."""
        return self.linear.startswith("self-normalizing")

    @property
    def dimensions(self) -> int:
        """D = C·H·W."""
        channels, height, width = self.shape
        return channels * height * width


def layer_costs(architecture: Architecture) -> Iterator[LayerCost]:
    """Yield the cost of every layer with weights, and of activations, in the order of the forward direction."""
    if isinstance(architecture, GlowArchitecture):
        yield from _glow(architecture)
    elif isinstance(architecture, ConvolutionalArchitecture):
        yield from _convolutional(architecture)
    else:
        yield from _fully_connected(architecture)


def _glow(architecture: GlowArchitecture) -> Iterator[LayerCost]:
    channels, height, width = architecture.image_shape
    for level in range(architecture.levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        shape = channels, height, width
        for _ in range(architecture.steps):
            yield LayerCost("actnorm", shape, 2 * channels, 0, channels * height * width)
            yield _channels(shape, architecture.linear)
            yield _coupling(shape, architecture.hidden)
        if level < architecture.levels - 1:
            yield _coupling(shape, architecture.hidden)
            channels = (channels + 1) // 2


def _channels(shape: tuple[int, int, int], linear: str) -> LayerCost:
    channels, height, width = shape
    matrices = 2 if linear == "self-normalizing" else 1
    numbers = matrices * channels * height * width
    parameters = matrices * channels**2 + channels
    return LayerCost("channels", shape, parameters, channels**2 * height * width, numbers, linear)


def _coupling(shape: tuple[int, int, int], hidden: int) -> LayerCost:
    channels, height, width = shape
    kept = (channels + 1) // 2
    out = 2 * (channels - kept)
    weights = 9 * kept * hidden + hidden**2 + 9 * hidden * out
    # Two hidden layers; log-scale, scale and what they are made of.
    inside = 2 * hidden * height * width
    numbers = inside + (4 * out + 2 * channels) * height * width
    parameters = weights + 2 * hidden + 2 * out
    return LayerCost("coupling", shape, parameters, weights * height * width, numbers, hidden=inside)


def _convolutional(architecture: ConvolutionalArchitecture) -> Iterator[LayerCost]:
    channels, height, width = architecture.image_shape
    for block in range(architecture.blocks):
        if block > 0:
            channels, height, width = 4 * channels, height // 2, width // 2
        shape = channels, height, width
        for layer in range(architecture.layers):
            yield _convolution(shape, architecture.kernel, architecture.linear)
            if block < architecture.blocks - 1 or layer < architecture.layers - 1:
                dimensions = channels * height * width
                yield LayerCost("spline", shape, SPLINE_PARAMETERS * dimensions, 0, 50 * dimensions)


def _convolution(shape: tuple[int, int, int], kernel: int, linear: str) -> LayerCost:
    channels, height, width = shape
    locations = height * width
    taps = channels**2 * kernel**2
    # Kernels learned, products of kernel size a forward pass, and other weights and products a location.
    parameters, products = {
        "exact": (taps + channels, taps),
        "self-normalizing": (2 * taps + channels, taps),
        "self-normalizing-two-layer": (3 * taps + channels, taps),
        "emerging": (9 * channels**2 + channels, 9 * channels**2),
        "exponential": (
            taps + channels**2 + 2 * channels * locations,
            EXPONENTIAL_TERMS * taps + channels**2,
        ),
    }[linear]
    numbers = {"exponential": 2 * EXPONENTIAL_TERMS + 2, "emerging": 6}.get(linear, 3) * channels * locations
    return LayerCost("convolution", shape, parameters, products * locations, numbers, linear, kernel=kernel)


def _fully_connected(architecture: FullyConnectedArchitecture) -> Iterator[LayerCost]:
    shape = architecture.image_shape
    dimensions = shape[0] * shape[1] * shape[2]
    matrices = 2 if architecture.linear == "self-normalizing" else 1
    for layer in range(architecture.layers):
        parameters = matrices * dimensions**2 + dimensions
        yield LayerCost("dense", shape, parameters, dimensions**2, 3 * dimensions, architecture.linear)
        if layer < architecture.layers - 1:
            yield LayerCost("activation", shape, 0, 0, 4 * dimensions)
