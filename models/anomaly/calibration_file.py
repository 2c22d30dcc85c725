"""A calibration on disk: arrays and nothing else."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from models.anomaly.calibration import Calibration
from models.anomaly.storage import from_arrays, to_arrays
from models.artifacts.manifest import CalibrationSummary, file_label
from models.atomic_files import write_atomically
from models.errors import ArtifactError
from models.registry.calibrations import ARRAYS, check_files, read_record


def calibration_bytes(calibration: Calibration) -> bytes:
    """Return the content of the file of a calibration."""
    return save(to_arrays(calibration))


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration, whole or not at all."""
    write_atomically(path, calibration_bytes(calibration))


def load_calibration(path: Path) -> Calibration:
    """Read a calibration. Raises ``ArtifactError`` that names the file."""
    try:
        return from_arrays(Calibration, load_file(path))
    except KeyError as error:
        raise ArtifactError(f"{file_label(path)} lacks {error.args[0]}") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error


def load_later(folder: Path, weights_sha256: str) -> tuple[Calibration, CalibrationSummary]:
    """Read and verify a calibration that was made after its model: arrays and what is known of them.

    Raises ``ArtifactError`` for one that is missing, damaged, or of other weights than those with this digest.
    """
    record = read_record(folder)
    check_files(folder, record, weights_sha256)
    calibration = load_calibration(folder / ARRAYS)
    if calibration.images != record.summary.calibration_images:
        expected = record.summary.calibration_images
        raise ArtifactError(f"{file_label(folder / ARRAYS)}: expected {expected} images, got {calibration.images}")
    return calibration, record.summary
