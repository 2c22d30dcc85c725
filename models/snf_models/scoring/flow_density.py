"""Density over pixels with its flow in memory, so that images can be sampled from it."""

from __future__ import annotations

from snf_models.scoring.engines.flow_engine import FlowEngine
from snf_models.scoring.frozen import FrozenFlow
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.pixel_density import PixelDensity


class FlowDensity(PixelDensity):
    """Density of pixels whose frozen flow is in memory, so that it can be sampled."""

    engine: FlowEngine
    frozen: FrozenFlow

    def __init__(self, engine: FlowEngine, frozen: FrozenFlow, weights_digest: str) -> None:
        super().__init__(engine, frozen, weights_digest)


def pixels_of(density: ImageDensity) -> FlowDensity | None:
    """Return the density of pixels with its flow; None for features alone, and for one opened from the cache."""
    pixels = density.pixels if isinstance(density, HybridDensity) else density
    return pixels if isinstance(pixels, FlowDensity) else None
