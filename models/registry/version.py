"""Version of a model in the registry, with its manifest and the calibration that it uses.

Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.artifacts.manifest import CalibrationRecord, CalibrationSummary, Manifest, read_manifest
from models.registry.calibrations import OWN, read_record

Stamp = tuple[int, int, int]
"""Inode, time of change in ns and size of a file."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a trained model in the registry, with its folder and the calibration for its p-values.

    Attributes:
        name: The name of the model.
        version: The number of the version.
        path: The folder of the artifact.
        read_only: Whether the version ships with the product.
        stamp: Identifies the manifest file, as another model may later have the same name and version.
        calibration: The number of the calibration.
        calibration_path: The folder of the calibration; None for number 0, which is part of the artifact.
        calibration_stamp: Identifies the record of the calibration.
    """

    name: str
    version: int
    path: Path
    read_only: bool
    stamp: Stamp | None
    calibration: int = OWN
    calibration_path: Path | None = None
    calibration_stamp: Stamp | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest of this model version, which describes its architecture, training and measured quality.

        It also has the digests of the files. It is read from disk and cached.

        Raises ``ArtifactError``.
        """
        return _cached_manifest(self.path, self.stamp)

    @property
    def calibration_summary(self) -> CalibrationSummary:
        """Summary of the calibration from which this model version computes p-values.

        It describes the images of the calibration, its precision and its smallest p-value. The result is cached.

        Raises ``ArtifactError``.
        """
        if self.calibration_path is None:
            return self.manifest.calibration
        return _cached_record(self.calibration_path, self.calibration_stamp).summary


@lru_cache(maxsize=1024)
def _cached_manifest(path: Path, _stamp: Stamp | None) -> Manifest:
    return read_manifest(path)  # an artifact is immutable once written


@lru_cache(maxsize=1024)
def _cached_record(path: Path, _stamp: Stamp | None) -> CalibrationRecord:
    return read_record(path)  # as immutable


def file_identity(path: Path) -> Stamp | None:
    """Return (inode, modification time in ns, size in bytes) of a file, or None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None  # reading the manifest raises the error
    return status.st_ino, status.st_mtime_ns, status.st_size
