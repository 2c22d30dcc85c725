"""A calibration on disk: arrays and nothing else."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from models.anomaly.calibration import Calibration
from models.anomaly.storage import from_arrays, to_arrays
from models.files import write_atomically
from models.manifest import file_label
from models.problems import ArtifactError


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration, whole or not at all."""
    write_atomically(path, save(to_arrays(calibration)))


def load_calibration(path: Path) -> Calibration:
    """Read a calibration. Raises ``ArtifactError`` that names the file."""
    try:
        return from_arrays(Calibration, load_file(path))
    except KeyError as error:
        raise ArtifactError(f"{file_label(path)} lacks {error.args[0]}") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error
