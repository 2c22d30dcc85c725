"""File names of a stored model, and reading of single files without loading the model.

The module does not import torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.artifacts.manifest import FILE, file_label, read_manifest
from models.errors import ArtifactError, FileNotInArtifact

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
    """Return all arrays of a safetensors file as a dict from array name to NumPy array.

    Raises ``ArtifactError`` if the file cannot be read, or has numbers of another type than booleans, integers and
    floats of NumPy, such as bfloat16.
    """
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two of types that NumPy lacks
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in NUMBERS:  # NumPy has bfloat16, too, once another package added it
            raise ArtifactError(f"{file_label(path)} cannot be read: {name} has numbers of type {array.dtype}")
    return arrays


def read_file(folder: Path, name: str) -> bytes:
    """Return the bytes of one file of a stored model, verified by its SHA-256.

    Args:
        folder: The folder of the artifact.
        name: The file, one of ``NAMES``.

    Raises:
        FileNotInArtifact: The artifact has no such file.
        ArtifactError: The file or the manifest is damaged.
    """
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
