"""Construction of the density of an exported model from its graphs, manifest and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_runtime.errors import ArtifactError, EngineUnavailable
from snf_runtime.exported.folder import MASSES
from snf_runtime.exported.layout_check import OutputShape, feature_outputs, pixel_outputs
from snf_runtime.exported.manifest import (
    ARRAYS,
    FILE,
    ExportedFeatures,
    ExportedPixels,
    ExportedTransform,
    ExportManifest,
)
from snf_runtime.kinds import GraphPart
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.engines.openvino_compile import Graph, compile_program
from snf_runtime.scoring.engines.openvino_features import OpenVINOFeatureEngine
from snf_runtime.scoring.engines.openvino_flow import OpenVINOFlow
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.openvino_program import Program, core
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.layout import FlowLayout
from snf_runtime.scoring.pixel_density import PixelDensity
from snf_runtime.scoring.pixel_transforms import AffineFunction, LogitFunction, MarginalFunction, PixelFunction

Arrays = Mapping[str, NDArray[Any]]
BINS = 256


def open_exported(folder: Path, manifest: ExportManifest, arrays: Arrays, threads: int) -> ImageDensity:
    """Open the graphs of a verified folder; raise ``ArtifactError``, or ``EngineUnavailable`` for the precision."""
    if manifest.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable("the model is for bfloat16, which this CPU has no arithmetic for")
    pixels = features = None
    if manifest.pixels is not None:
        layout = _layout(manifest, manifest.pixels, arrays)
        program = _program(folder / manifest.graph("pixels"), manifest, pixel_outputs(manifest.pixels), threads)
        pixels = PixelDensity(OpenVINOFlow(layout, program), layout, manifest.weights_sha256)
    if manifest.features is not None:
        program = _program(folder / manifest.graph("features"), manifest, feature_outputs(manifest.features), threads)
        features = _features(manifest, manifest.features, OpenVINOFeatureEngine(program))
    if pixels is not None and features is not None:
        return HybridDensity(pixels, features)
    density = pixels or features
    assert density is not None
    return density


def _layout(manifest: ExportManifest, pixels: ExportedPixels, arrays: Arrays) -> FlowLayout:
    try:
        function = pixel_function(pixels.transform, arrays.get(MASSES))
    except ValueError as error:
        raise ArtifactError(f"the pixel transform in {FILE} and {ARRAYS} is not valid: {error}") from error
    return FlowLayout(manifest.image_shape, function, pixels.levels, pixels.is_spatial, manifest.precision)


def pixel_function(transform: ExportedTransform, masses: NDArray[Any] | None) -> PixelFunction:
    """Build the pixel transform; ``masses`` ``(256,)`` are for a marginal one. ``ValueError`` if not possible."""
    if transform.type == "marginal":
        if masses is None or masses.dtype != np.float64 or masses.shape != (BINS,) or not (masses > 0).all():
            raise ValueError(f"expected {MASSES}, {BINS} numbers above 0")
        return MarginalFunction(masses)
    if transform.type == "logit":
        if transform.alpha is None or not 0 < transform.alpha < 0.5:
            raise ValueError(f"expected alpha of the pixel transform to be in (0, 0.5), got {transform.alpha}")
        return LogitFunction(transform.alpha)
    return AffineFunction()


def _features(manifest: ExportManifest, features: ExportedFeatures, engine: OpenVINOFeatureEngine) -> FeatureDensity:
    return FeatureDensity(
        engine,
        features.layout,
        manifest.weights_sha256,
        manifest.image_shape,
        features.input_size,
        manifest.preprocessing.tiled,
    )


def _program(
    path: Path, manifest: ExportManifest, outputs: dict[tuple[GraphPart, int], OutputShape], threads: int
) -> Program:
    try:
        model = core().read_model(path)
        _check_ports(path, model, (1, *manifest.image_shape), list(outputs.values()))
        # The graph is for one image. Several are computed at once, each by a thread of its own.
        return compile_program(lambda _: Graph(model, list(outputs)), threads, largest=1)
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be read and compiled by OpenVINO: {error}") from error


def _check_ports(path: Path, model: ov.Model, image: tuple[int, ...], outputs: list[OutputShape]) -> None:
    kind = "u8" if path.stem == "features" else "f32"
    for what, ports, shapes, type_name in (
        ("input", model.inputs, [image], kind),
        ("output", model.outputs, outputs, "f32"),
    ):
        if len(ports) != len(shapes):
            raise ArtifactError(f"{path}: expected {len(shapes)} {what}s, got {len(ports)}")
        for number, (port, shape) in enumerate(zip(ports, shapes, strict=True)):
            found = f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}"
            wanted = f"{type_name} [{','.join('N' if side is None else str(side) for side in shape)}]"
            if not _fits(port, shape, type_name):
                raise ArtifactError(f"{path}: expected {what} {number} to be {wanted}, got {found}")


def _fits(port: ov.Output, shape: OutputShape, type_name: str) -> bool:
    if port.get_partial_shape().is_dynamic or port.get_element_type().get_type_name() != type_name:
        return False
    sides = tuple(port.get_shape())
    return len(sides) == len(shape) and all(want in (None, got) for got, want in zip(sides, shape, strict=True))
