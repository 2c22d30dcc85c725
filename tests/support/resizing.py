"""Models that resize their images, made of shipped ones that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from snf_models.registry.registry import ZOO


def resizing_artifact(folder: Path, name: str = "mnist-snf-glow") -> Path:
    """Return an artifact that brings images of any size and colour to those of a shipped model, which scores them."""
    artifact = folder / f"resizing-{name}"
    shutil.copytree(ZOO / name / "1", artifact)
    file = artifact / "manifest.json"
    manifest = json.loads(file.read_text())
    colour = "grey" if manifest["preprocessing"]["channels"] == 1 else "rgb"
    manifest["preprocessing"] |= {"fit": "stretch", "colour": colour}
    file.write_text(json.dumps(manifest))
    return artifact
