from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from snf_models.artifacts.manifest import CalibrationRecord, CalibrationSummary, Manifest, read_manifest
from snf_models.registry.calibrations import OWN, read_record

Stamp = tuple[int, int, int]
"""Inode, time of change in ns and size of a file."""


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model with the calibration for its p-values. Free of torch."""

    name: str
    version: int
    path: Path
    read_only: bool
    stamp: Stamp | None  # of the manifest: another model may later have the same name and version
    calibration: int = OWN
    calibration_path: Path | None = None  # None for number 0, which is part of the artifact
    calibration_stamp: Stamp | None = None  # of its record

    @property
    def manifest(self) -> Manifest:
        """The cached manifest; raises ``ArtifactError``."""
        return _cached_manifest(self.path, self.stamp)

    @property
    def calibration_summary(self) -> CalibrationSummary:
        """The cached summary of the calibration; raises ``ArtifactError``."""
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
    """Return the identity of a file, or None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None  # reading the manifest raises the error
    return status.st_ino, status.st_mtime_ns, status.st_size
