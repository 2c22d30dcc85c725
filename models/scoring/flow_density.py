"""Density over pixels with its flow in memory, so that images can be sampled from it."""

from __future__ import annotations

from models.scoring.engines.flow_engine import FlowEngine
from models.scoring.frozen import FrozenFlow
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.pixel_density import PixelDensity


class FlowDensity(PixelDensity):
    """Probability density of 8-bit images, computed with an immutable flow that can also draw samples.

    An engine runs the flow in both directions.

    Args:
        engine: The engine that runs the flow.
        frozen: The flow.
        weights_digest: SHA-256 of the weights, in hexadecimal, which keys the noise.
    """

    engine: FlowEngine
    frozen: FrozenFlow

    def __init__(self, engine: FlowEngine, frozen: FrozenFlow, weights_digest: str) -> None:
        super().__init__(engine, frozen, weights_digest)


def pixels_of(density: ImageDensity) -> FlowDensity | None:
    """Return a model's density over pixels if it is a ``FlowDensity``, which holds the flow itself; else None.

    ``density`` is the pixel density itself, or a hybrid density that contains it. Returns None for a model of features
    alone, and for a density opened from the cache, which has no frozen flow.
    """
    pixels = density.pixels if isinstance(density, HybridDensity) else density
    return pixels if isinstance(pixels, FlowDensity) else None
