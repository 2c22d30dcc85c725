"""Checks of the files of an exported model: names, sizes, digests and the stored test image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_runtime.errors import ArtifactError
from snf_runtime.exported.manifest import ARRAYS, FILE, ExportManifest

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
