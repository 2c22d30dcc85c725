"""A model that resizes its images, made of a shipped one that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from models.images.preprocessing import Fit
from models.registry.registry import ZOO


def resizing_artifact(folder: Path, fit: Fit = "stretch") -> Path:
    """Return an artifact that brings all images to 28x28 grey pixels before ``mnist-snf-glow`` scores them.

    Args:
        folder: An existing folder for it.
        fit: How images are resized.
    """
    artifact = folder / f"resizing-{fit}"
    shutil.copytree(ZOO / "mnist-snf-glow" / "1", artifact)
    file = artifact / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["preprocessing"] |= {"fit": fit, "colour": "grey"}
    file.write_text(json.dumps(manifest))
    return artifact
