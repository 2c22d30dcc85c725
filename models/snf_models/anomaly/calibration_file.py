"""Reading and writing of calibrations as safetensors files, which hold arrays and no code."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from snf_models.artifacts.files import read_arrays
from snf_models.artifacts.manifest import CalibrationSummary, file_label
from snf_models.atomic_files import write_atomically
from snf_models.errors import ArtifactError
from snf_models.registry.calibrations import ARRAYS, check_files, read_record
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.calibration_arrays import from_arrays, to_arrays

GRADIENTS_IGNORED = (
    "gradient-evidence-ignored: it was also made for verdicts with gradients, which have been removed; verdicts are "
    "those without gradients, whose p-values stay the same. A new calibration has no such evidence"
)


def calibration_bytes(calibration: Calibration) -> bytes:
    return save(to_arrays(calibration))


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration atomically."""
    write_atomically(path, calibration_bytes(calibration))


def load_calibration(path: Path) -> Calibration:
    """Read a calibration; ``ArtifactError`` names a file that is unreadable or incomplete."""
    try:
        return from_arrays(Calibration, read_arrays(path))
    except KeyError as error:
        raise ArtifactError(f"{file_label(path)} lacks {error.args[0]}") from error
    except ValueError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error


def gradient_warning(folder: Path) -> str | None:
    """Return a warning where the calibration in a folder has evidence of gradients, as earlier versions made it."""
    try:
        with safe_open(folder / ARRAYS, "numpy") as arrays:
            return GRADIENTS_IGNORED if "fisher" in arrays.keys() else None  # noqa: SIM118 - it cannot be iterated
    except (OSError, SafetensorError):
        return None  # loading names it


def load_added_calibration(folder: Path, weights_sha256: str) -> tuple[Calibration, CalibrationSummary]:
    """Return an added calibration and its summary; ``ArtifactError`` if damaged or of other weights."""
    record = read_record(folder)
    check_files(folder, record, weights_sha256)
    calibration = load_calibration(folder / ARRAYS)
    if calibration.images != record.summary.calibration_images:
        expected = record.summary.calibration_images
        raise ArtifactError(f"{file_label(folder / ARRAYS)}: expected {expected} images, got {calibration.images}")
    return calibration, record.summary
