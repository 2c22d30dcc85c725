"""The files of an exported model: digests, arrays, calibration and density."""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.calibration import Calibration, Fold, from_arrays, to_arrays
from snf_runtime.errors import ArtifactError, EngineUnavailable
from snf_runtime.exported.manifest import (
    ARRAYS,
    FILE,
    ExportedPixels,
    ExportedTransform,
    ExportManifest,
    OutputShape,
    feature_outputs,
    pixel_outputs,
)
from snf_runtime.images.codec import npy_header
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeatureDensity, joined_density
from snf_runtime.scoring.layout import (
    AffineFunction,
    FlowLayout,
    GraphPart,
    LogitFunction,
    MarginalFunction,
    PixelFunction,
)
from snf_runtime.scoring.openvino_engine import (
    Graph,
    OpenVINOFeatures,
    OpenVINOFlow,
    P,
    compile_program,
    core,
    ov,
)
from snf_runtime.scoring.pixel_density import PixelDensity

PINNED, MASSES, CALIBRATION = "pinned", "pixel-masses", "calibration"
"""Names of arrays: the stored image, the masses of the pixel transform, and how those of the calibration begin."""


def check_files(folder: Path, manifest: ExportManifest) -> None:
    """Compare names, sizes and SHA-256 of all files with the manifest; ``ArtifactError`` names one that differs."""
    expected = manifest.expected_files()
    for name in sorted(expected ^ manifest.files.keys()):
        lacking = "lists" if name in manifest.files else "does not list"
        raise ArtifactError(f"{folder / FILE} {lacking} {name}")
    for path in sorted(folder.iterdir()):
        if path.name not in expected and path.name != FILE:
            raise ArtifactError(f"expected only the files of {folder / FILE}, got {path.name} beside them")
    for name, file in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is missing")
        size = path.stat().st_size
        if size != file.bytes:
            raise ArtifactError(f"{path}: expected {file.bytes} bytes, got {size}")
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != file.sha256:
            raise ArtifactError(f"{path} does not have the SHA-256 that the manifest gives")


def pinned_of(arrays: Mapping[str, NDArray[Any]], manifest: ExportManifest) -> NDArray[np.uint8]:
    """Return the stored test image, uint8 ``(1, C, H, W)``; raise ``ArtifactError`` if it has another shape or type."""
    pinned = arrays.get(PINNED)
    wanted = (1, *manifest.image_shape)
    if pinned is None or pinned.dtype != np.uint8 or pinned.shape != wanted:
        got = "none" if pinned is None else f"{pinned.dtype} {pinned.shape}"
        raise ArtifactError(f"expected {ARRAYS} to have a stored image, uint8 {wanted}, got {got}")
    return pinned


ENDING = ".npy"
TYPES = (np.uint8, np.int64, np.float32, np.float64)  # types of the numbers, in the byte order of this machine


def read_export_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Read ``arrays.npz``; raise ``ArtifactError`` for anything but uncompressed arrays of numbers."""
    path = folder / ARRAYS
    arrays: dict[str, NDArray[Any]] = {}
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as content:
            for member in content.infolist():
                name = member.filename.removesuffix(ENDING)
                _check_member(member, size)
                if name in arrays:
                    raise ValueError(f"expected {name} once, got it twice")
                arrays[name] = _array(content, member)
    except (ValueError, OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    return arrays


def _check_member(member: zipfile.ZipInfo, size: int) -> None:
    if not member.filename.endswith(ENDING):
        raise ValueError(f"expected names that end in {ENDING}, got {member.filename}")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits:
        raise ValueError(f"expected arrays that are not compressed or encrypted, got {member.filename}")
    if not member.compress_size == member.file_size <= size:
        raise ValueError(f"expected {member.filename} to have at most the {size} bytes of the file")


def _array(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with content.open(member) as file:
        shape, is_fortran, dtype = npy_header(file)
        if dtype not in TYPES or is_fortran:
            names = ", ".join(kind.__name__ for kind in TYPES)
            raise ValueError(f"expected {member.filename} to have rows of one of {names}, got {dtype}")
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if member.file_size != expected:
            raise ValueError(f"expected {expected} bytes in {member.filename} for {shape}, got {member.file_size}")
        return np.ndarray(shape, dtype, file.read()).copy()


Arrays = Mapping[str, NDArray[Any]]
SORTED = ("ordered", "map_maxima")
"""Ends of the names of sorted arrays. Their last values may be infinite, where a statistic overflowed."""


def open_calibration(manifest: ExportManifest, density: ImageDensity, arrays: Arrays) -> Calibration:
    """Build the calibration; ``ArtifactError`` names an array that is missing, unknown or does not fit the model."""
    try:
        calibration = from_arrays(Calibration, arrays, CALIBRATION)
        known = {*to_arrays(calibration, CALIBRATION), PINNED, *_masses(manifest)}
        if unknown := sorted(arrays.keys() - known):
            raise ValueError(f"expected no array {unknown[0]}")
        for name, values in arrays.items():
            if values.dtype.kind == "f" and not name.endswith(SORTED) and not np.isfinite(values).all():
                raise ValueError(f"expected finite numbers in {name}, got others")
        for number, fold in enumerate(calibration.folds):
            _check_fold(fold, f"{CALIBRATION}.folds.{number}", manifest, density)
        _check_maps(calibration, manifest, density)
        images, _ = calibration.images, calibration.map_maxima
    except KeyError as error:
        raise ArtifactError(f"{ARRAYS} lacks {error.args[0]}") from error
    except ValueError as error:
        raise ArtifactError(f"{ARRAYS}: {error}") from error
    if images != manifest.calibration.images or not images:
        raise ArtifactError(f"{ARRAYS}: expected {manifest.calibration.images} calibration images, got {images}")
    return calibration


def _masses(manifest: ExportManifest) -> list[str]:
    return [MASSES] if manifest.pixels is not None and manifest.pixels.transform.type == "marginal" else []


def _check_fold(fold: Fold, where: str, manifest: ExportManifest, density: ImageDensity) -> None:
    statistic = fold.statistic
    for name, values in (("ordered", fold.ordered), ("map_maxima", fold.map_maxima)):
        if values is None:
            continue
        if values.ndim != 1 or values.dtype != np.float64:
            raise ValueError(f"expected {where}.{name} to be float64 in one row, got {values.dtype} {values.shape}")
        if np.isnan(values).any() or (values[1:] < values[:-1]).any():
            raise ValueError(f"expected {where}.{name} to be sorted numbers, got others")
    for name, there, wanted in (
        ("whole", statistic.whole, manifest.pixels is not None),
        ("local", statistic.local, density.grid is not None),
        ("features", statistic.features, manifest.features is not None),
    ):
        if (there is not None) != wanted:
            needs = "arrays" if wanted else "no array"
            raise ValueError(f"expected {needs} {where}.statistic.{name} for this model")
    if statistic.local is not None and tuple(statistic.local.grid.tolist()) != density.grid:
        raise ValueError(f"expected {where}.statistic.local.grid to be {density.grid}, got {statistic.local.grid}")


def _check_maps(calibration: Calibration, manifest: ExportManifest, density: ImageDensity) -> None:
    counts = calibration.tile_counts
    if counts is not None and (counts.shape != (2,) or counts.dtype != np.int64 or not manifest.preprocessing.tiled):
        raise ValueError(f"expected {CALIBRATION}.tile_counts to be two int64 of a model of tiles, got {counts.shape}")
    reference = calibration.pixels
    if (reference is not None) != density.has_map:
        raise ValueError(f"expected {'' if density.has_map else 'no '}arrays {CALIBRATION}.pixels for this model")
    if reference is None:
        return
    shape: tuple[int, ...] = manifest.image_shape[1:]
    if manifest.preprocessing.tiled and manifest.features is not None:
        shape = manifest.features.layout.feature_shape[1:]
    for name, values in (("mean", reference.mean), ("deviation", reference.deviation)):
        if values.shape != shape:
            raise ValueError(f"expected {CALIBRATION}.pixels.{name} to be {shape}, got {values.shape}")


BINS = 256


def open_exported(folder: Path, manifest: ExportManifest, arrays: Arrays, threads: int) -> ImageDensity:
    """Open the graphs of a verified folder; raise ``ArtifactError``, or ``EngineUnavailable`` for the precision."""
    if manifest.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable("the model is for bfloat16, which this CPU has no arithmetic for")
    pixels = features = None
    if manifest.pixels is not None:
        layout = _layout(manifest, manifest.pixels, arrays)
        engine = _program(
            partial(OpenVINOFlow, layout), folder, manifest, "pixels", pixel_outputs(manifest.pixels), threads
        )
        pixels = PixelDensity(engine, layout, manifest.weights_sha256)
    if manifest.features is not None:
        outputs = feature_outputs(manifest.features)
        features = FeatureDensity(
            _program(OpenVINOFeatures, folder, manifest, "features", outputs, threads),
            manifest.features.layout,
            manifest.weights_sha256,
            manifest.image_shape,
            manifest.features.input_size,
            manifest.preprocessing.tiled,
        )
    return joined_density(pixels, features)


def _layout(manifest: ExportManifest, pixels: ExportedPixels, arrays: Arrays) -> FlowLayout:
    try:
        function = pixel_function(pixels.transform, arrays.get(MASSES))
    except ValueError as error:
        raise ArtifactError(f"the pixel transform in {FILE} and {ARRAYS} is not valid: {error}") from error
    return FlowLayout(
        manifest.image_shape, function, pixels.levels, pixels.is_spatial, manifest.precision, has_learned_inverse=False
    )


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


def _program(
    make: Callable[..., P],
    folder: Path,
    manifest: ExportManifest,
    part: str,
    outputs: dict[tuple[GraphPart, int], OutputShape],
    threads: int,
) -> P:
    path = folder / manifest.graph(part)
    try:
        model = core().read_model(path)
        _check_ports(path, model, (1, *manifest.image_shape), list(outputs.values()))
        # The graph is for one image. Several are computed at once, each by a thread of its own.
        return compile_program(make, lambda _: Graph(model, list(outputs)), threads, micro_batch=1)
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
