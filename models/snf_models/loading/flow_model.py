from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from snf_models.anomaly.calibrate import Progress, calibrate
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.artifacts.manifest import CalibrationSummary, Precision
from snf_models.errors import SamplesUnsupported
from snf_models.features.flows import FrozenFeatureFlows
from snf_models.loading.load_flows import Artifact
from snf_models.scoring.flow_density import FlowDensity
from snf_models.scoring.open_density import frozen_features, frozen_pixels, open_density
from snf_models.scoring.opened_density import OpenedDensity, parts_of
from snf_models.scoring.options import EngineOptions
from snf_models.scoring.sampling import Sampler
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.pixel_density import PixelDensity


class FlowModel:
    """Model with its trained flows in memory, for sampling and calibration."""

    def __init__(self, artifact: Artifact, options: EngineOptions, density: ImageDensity | None = None) -> None:
        self.flows = artifact.flow
        self._manifest = artifact.manifest
        self._pinned = artifact.pinned
        self._options = options
        self.density = density or self._density_in(options.precision)

    def opened(self) -> OpenedDensity:
        pixels = self.pixels
        return OpenedDensity(self.density, pixels is not None and pixels.frozen.has_learned_inverse)

    @cached_property
    def pixels(self) -> FlowDensity | None:
        """The density over pixels by the trained flow; None for a model of features alone."""
        pixels, _ = parts_of(self.density)
        if pixels is None or isinstance(pixels, FlowDensity):
            return pixels
        return self._with_flow(pixels)

    def _with_flow(self, pixels: PixelDensity) -> FlowDensity:
        """Return a density of pixels that was opened without its flow, with it; both run the same compiled graphs."""
        from snf_models.scoring.engines.openvino_engine import OpenVINOEngine  # noqa: PLC0415 - OpenVINO takes time to load
        from snf_runtime.scoring.engines.openvino_flow import OpenVINOFlow  # noqa: PLC0415 - as above

        frozen = frozen_pixels(self.flows, self._manifest.architecture, self._manifest.log_dets.layers)
        assert frozen is not None
        assert isinstance(pixels.engine, OpenVINOFlow)
        engine = OpenVINOEngine(
            frozen.with_precision(pixels.precision), self._options.threads, self._options.cache, pixels.engine.program
        )
        return FlowDensity(engine, frozen, pixels.weights_digest)

    @cached_property
    def features(self) -> FrozenFeatureFlows | None:
        """The frozen flows over features; None for a model of pixels alone."""
        _, features = parts_of(self.density)
        if features is not None and isinstance(features.flows, FrozenFeatureFlows):
            return features.flows
        return frozen_features(self.flows, self._manifest.log_dets.layers)

    @cached_property
    def sampler(self) -> Sampler:
        """Sampler of images; raises ``SamplesUnsupported`` for a model of features alone."""
        if self.pixels is None:
            raise SamplesUnsupported("it is a density of features, which have no way back to pixels")
        return Sampler(self.pixels.engine, self.pixels.frozen, self._options.threads)

    def calibrate(
        self, reference: ReferenceImages, progress: Progress, precision: Precision
    ) -> tuple[Calibration, CalibrationSummary]:
        """Calibrate as :meth:`snf_models.scorer.Scorer.calibrate`."""
        density = self._density_in(precision)
        precise = None if precision == "float32" else self._density_in("float32")
        return calibrate(density, reference, self._pinned[0], progress, precise=precise)

    def _density_in(self, precision: Precision | None) -> ImageDensity:
        if precision is not None and "density" in vars(self) and precision == self.density.precision:
            return self.density
        manifest, options = self._manifest, replace(self._options, precision=precision)
        digest = manifest.log_dets.weights_sha256
        return open_density(self.flows, manifest.architecture, manifest.log_dets.layers, digest, options)
