"""Loading of a model's density from its stored record and cached compiled graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from snf_models.artifacts.manifest import Manifest, Precision
from snf_models.flows.architecture import features_of
from snf_models.scoring.cache_files import note_use
from snf_models.scoring.engines.compiled_cache import CompiledCache
from snf_models.scoring.opened_density import OpenedDensity
from snf_models.scoring.prepared.record import PreparedFeatures, PreparedPixels, PreparedProgram, PreparedRecord
from snf_runtime.exported.open_density import pixel_function
from snf_runtime.kinds import GraphPart
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.engines.openvino_compile import NEVER, compile_settings
from snf_runtime.scoring.engines.openvino_features import OpenVINOFeatureEngine
from snf_runtime.scoring.engines.openvino_flow import OpenVINOFlow
from snf_runtime.scoring.engines.openvino_program import Lanes, Outputs, Program
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.layout import FlowLayout
from snf_runtime.scoring.pixel_density import PixelDensity

FEATURE_OUTPUTS: list[tuple[GraphPart, int]] = [("places", 0), ("pooled", 0)]

log = logging.getLogger(__name__)


class GraphLost(LookupError):
    """Raised if a compiled graph that a record names cannot be loaded from the cache."""


@dataclass(frozen=True)
class Opener:
    """Loader of a density from its record and the cache; ``on_lost`` is called if a later graph cannot be used."""

    manifest: Manifest
    precision: Precision
    threads: int
    cache: CompiledCache
    on_lost: Callable[[], None]

    def open(self, record: PreparedRecord) -> OpenedDensity:
        """Raise ``GraphLost`` for a missing or damaged graph, ``ValueError`` if the record does not fit the model."""
        pixels = None if record.pixels is None else self._pixels(record.pixels)
        features = None if record.features is None else self._features(record.features)
        density: ImageDensity | None = pixels or features
        if pixels is not None and features is not None:
            density = HybridDensity(pixels, features)
        assert density is not None
        of_pixels = record.pixels
        return OpenedDensity(density, of_pixels is not None and of_pixels.has_learned_inverse)

    def _pixels(self, record: PreparedPixels) -> PixelDensity:
        masses = None if record.masses is None else np.array(record.masses)
        layout = FlowLayout(
            self.manifest.architecture.image_shape,
            pixel_function(record.flow.transform, masses),
            record.flow.levels,
            record.flow.is_spatial,
            self.precision,
        )
        program = self._program(record.program, record.flow.outputs)
        return PixelDensity(OpenVINOFlow(layout, program), layout, self.manifest.log_dets.weights_sha256)

    def _features(self, record: PreparedFeatures) -> FeatureDensity:
        architecture = features_of(self.manifest.architecture)
        if architecture is None:
            raise ValueError("expected a model with features, got one without")
        return FeatureDensity(
            OpenVINOFeatureEngine(self._program(record.program, FEATURE_OUTPUTS)),
            record.layout,
            self.manifest.log_dets.weights_sha256,
            architecture.image_shape,
            architecture.input_size,
            architecture.tiled,
        )

    def _program(self, record: PreparedProgram, outputs: Outputs) -> Program:
        threads = self.threads
        if record.tiling.lanes != threads:
            raise ValueError(f"expected a program for {threads} threads, got one for {record.tiling.lanes}")
        single = self._lanes(record.single, 1, threads)
        if record.wave == record.single:
            return Program(outputs, record.tiling, single, lambda: single)
        if record.tiling.single >= NEVER:
            wave = self._lanes(record.wave, threads, threads)
            return Program(outputs, record.tiling, single, lambda: wave)
        path = self.cache.path(record.wave)
        try:
            path.stat()
        except OSError as error:
            raise GraphLost(f"the compiled graph {record.wave} cannot be used: {error.strerror}") from error
        note_use(path)
        # Half of the time to open a program: a few images do without.
        return Program(outputs, record.tiling, single, lambda: self._wave(record.wave, threads))

    def _wave(self, name: str, threads: int) -> Lanes | None:
        try:
            return self._lanes(name, threads, threads)
        except (GraphLost, RuntimeError) as error:
            log.warning("images are scored one by one until the model is loaded again, which is slower: %s", error)
            self.on_lost()
            return None

    def _lanes(self, name: str, count: int, threads: int) -> Lanes:
        compiled = self.cache.stored(name, compile_settings(count, threads))
        if compiled is None:
            raise GraphLost(f"the compiled graph {name} cannot be used")
        return Lanes(compiled, count)
