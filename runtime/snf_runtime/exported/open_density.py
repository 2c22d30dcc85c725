"""The density of an exported model, from the graphs and the layouts in its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_runtime.errors import ArtifactError, EngineUnavailable
from snf_runtime.exported.folder import MASSES
from snf_runtime.exported.manifest import ARRAYS, ExportedFeatures, ExportedPixels, ExportManifest
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.engines.openvino_features import OpenVINOFeatureEngine
from snf_runtime.scoring.engines.openvino_flow import OpenVINOFlow
from snf_runtime.scoring.engines.openvino_program import Graph, Part, Program, core
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.layout import FlowLayout
from snf_runtime.scoring.pixel_density import PixelDensity
from snf_runtime.scoring.pixel_transforms import AffineFunction, LogitFunction, MarginalFunction, PixelFunction

Arrays = Mapping[str, NDArray[Any]]
BINS = 256


def available_threads() -> int:
    """Return ``OMP_NUM_THREADS`` where it is set, else the number of cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_exported(folder: Path, manifest: ExportManifest, arrays: Arrays, threads: int) -> ImageDensity:
    """Return the density of an exported model.

    Args:
        folder: The folder, whose files were verified.
        manifest: Its manifest.
        arrays: Its arrays.
        threads: Threads on the CPU.

    Raises:
        ArtifactError: A graph cannot be read, or does not fit the manifest.
        EngineUnavailable: This CPU cannot compute in the precision of the model.
    """
    if manifest.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable("the model is for bfloat16, which this CPU has no arithmetic for")
    pixels = features = None
    if manifest.pixels is not None:
        layout = _layout(manifest, manifest.pixels, arrays)
        path, outputs = folder / manifest.graph("pixels"), list(manifest.pixels.outputs)
        program = _program(path, manifest, [*outputs], threads)
        pixels = PixelDensity(OpenVINOFlow(layout, program), layout, manifest.weights_sha256)
    if manifest.features is not None:
        program = _program(folder / manifest.graph("features"), manifest, [("places", 0), ("pooled", 0)], threads)
        features = _features(manifest, manifest.features, OpenVINOFeatureEngine(program))
    if pixels is not None and features is not None:
        return HybridDensity(pixels, features)
    density = pixels or features
    assert density is not None
    return density


def _layout(manifest: ExportManifest, pixels: ExportedPixels, arrays: Arrays) -> FlowLayout:
    transform = pixels.transform
    function: PixelFunction
    if transform.type == "marginal":
        masses = arrays.get(MASSES)
        if masses is None or masses.dtype != np.float64 or masses.shape != (BINS,) or not (masses > 0).all():
            raise ArtifactError(f"expected {ARRAYS} to have {MASSES}, {BINS} numbers above 0")
        function = MarginalFunction(masses)
    elif transform.type == "logit":
        if transform.alpha is None or not 0 < transform.alpha < 0.5:
            raise ArtifactError(f"expected alpha of the pixel transform to be in (0, 0.5), got {transform.alpha}")
        function = LogitFunction(transform.alpha)
    else:
        function = AffineFunction()
    return FlowLayout(manifest.image_shape, function, pixels.levels, pixels.is_spatial, manifest.precision)


def _features(manifest: ExportManifest, features: ExportedFeatures, engine: OpenVINOFeatureEngine) -> FeatureDensity:
    return FeatureDensity(
        engine,
        features.layout,
        manifest.weights_sha256,
        manifest.image_shape,
        features.input_size,
        manifest.preprocessing.tiled,
    )


def _program(path: Path, manifest: ExportManifest, outputs: list[tuple[Part, int]], threads: int) -> Program:
    try:
        model = core().read_model(path)
        shape = list(model.input(0).get_shape())
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be read by OpenVINO: {error}") from error
    if len(model.inputs) != 1 or shape != [1, *manifest.image_shape] or len(model.outputs) != len(outputs):
        raise ArtifactError(
            f"{path}: expected an input of {[1, *manifest.image_shape]} and {len(outputs)} outputs, got "
            f"{len(model.inputs)} inputs, the first of {shape}, and {len(model.outputs)} outputs"
        )
    # The graph is for one image. Several are computed at once, each by a thread of its own.
    return Program(lambda _: Graph(model, outputs), threads, tile=1)
