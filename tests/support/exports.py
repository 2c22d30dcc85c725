"""Exported models for the runner without torch, and changes of their manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snf_models.disk import locked
from snf_models.exports import export_model
from snf_models.registry.registry import ModelVersion
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_runtime.exported.manifest import FILE
from tests.support.paths import shared_folder
from tests.support.trained import barely_trained


def exported_pixels(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an exported model of the pixels of digits, by the first process that needs it."""
    artifact, folder = barely_trained(factory), shared_folder(factory) / "exported" / "digits"
    with locked(folder.parent):
        if not folder.exists():
            scorer = load_model(artifact, options=EngineOptions("openvino", threads=1))
            export_model(ModelVersion("digits", 3, artifact, False, None), scorer, folder, "openvino")
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of an exported model, and the digests with the files."""
    manifest = json.loads((folder / FILE).read_text())
    for name, file in manifest["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    change(manifest)
    (folder / FILE).write_text(json.dumps(manifest))
