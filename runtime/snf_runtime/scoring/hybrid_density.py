"""Density of pixels, with statistics of features added for anomaly verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from snf_runtime.images.batch import Batch, stacked
from snf_runtime.kinds import DensityKind
from snf_runtime.scoring.density import DensityPass
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.flow_pass import FlowPass
from snf_runtime.scoring.pixel_density import PixelDensity


class HybridDensity:
    """Density with log-likelihoods of pixels alone, whose evidence includes that of features."""

    kind: DensityKind = "density"
    tiled = False

    def __init__(self, pixels: PixelDensity, features: FeatureDensity) -> None:
        self.pixels = pixels
        self.features = features
        self.image_shape = pixels.image_shape
        self.dimensions = pixels.dimensions
        self.step_pixels = pixels.step_pixels + features.step_pixels
        self.at_once = min(pixels.at_once, features.at_once)
        self.weights_digest = pixels.weights_digest
        self.constant_log_det = pixels.constant_log_det
        self.statistics = pixels.statistics
        self.grid = pixels.grid
        self.has_map = pixels.has_map
        self.engine_name = pixels.engine_name
        self.precision = pixels.precision
        self.tile = pixels.tile

    def passes(self, images: Batch, draws: int = 1, at_once: int | None = None) -> Iterator[tuple[int, FlowPass]]:
        """Yield the passes of the pixel flow; features are computed by :meth:`evidence`."""
        return self.pixels.passes(images, draws, at_once or self.at_once)

    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        """Return the pixels' evidence from their pass, with that of features from a pass of its own."""
        features = self.features.measure(stacked(images)).evidence()
        return replace(self.pixels.evidence(images, density_pass), features=features)
