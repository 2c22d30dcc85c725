"""File names of a stored model, and reading of single files. Free of torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from snf_models.artifacts.manifest import FILE, file_label, read_manifest
from snf_models.errors import ArtifactError, FileNotInArtifact

WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.safetensors"
PINNED = "pinned.safetensors"
CARD = "card.md"
SAMPLES = "samples.png"
NAMES = (FILE, WEIGHTS, CALIBRATION, PINNED, CARD, SAMPLES)
"""The names of all files of an artifact, the manifest first."""
OPTIONAL = (SAMPLES,)
"""The names of files that a model may lack: a density of features has no samples."""


NUMBERS = "biuf"
"""Kinds of array elements that a model has, as NumPy names them: booleans, integers and floats."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file; raise ``ArtifactError``, also for types that NumPy lacks, such as bfloat16."""
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two of types that NumPy lacks
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in NUMBERS:  # NumPy has bfloat16, too, once another package added it
            raise ArtifactError(f"{file_label(path)} cannot be read: {name} has numbers of type {array.dtype}")
    return arrays


def read_file(folder: Path, name: str) -> bytes:
    """Return a file of ``NAMES``, verified; raise ``FileNotInArtifact``, or ``ArtifactError`` for damage."""
    digest = read_manifest(folder).files.get(name) if name in NAMES else None
    if digest is None:
        raise FileNotInArtifact(f"{file_label(folder)} has no {name}")
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtifactError(f"{file_label(path)} does not have the SHA-256 that the manifest gives")
    return content
