"""Construction and checks of the calibration of an exported model from its stored arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.calibration import Calibration, Fold
from snf_runtime.anomaly.calibration_arrays import from_arrays, to_arrays
from snf_runtime.errors import ArtifactError
from snf_runtime.exported.folder import CALIBRATION, MASSES, PINNED
from snf_runtime.exported.manifest import ARRAYS, ExportManifest
from snf_runtime.scoring.density import ImageDensity

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
