"""Model artifacts to serve: of the real size, trained for two steps, kept below ``var/speed`` for the next run."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.speed.peers import ROOT
from snf_models.datasets import load_dataset
from snf_models.errors import ModelsError
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model

ARTIFACTS = ROOT / "var" / "speed"
STEPS, BATCH, CHECKED = 2, 32, 16
"""Time does not depend on what a model has learned."""


def artifact(preset: str) -> Path:
    """Return an artifact of the preset for digits, made anew where there is none that loads."""
    folder = ARTIFACTS / preset
    path = folder / "artifact"
    try:
        load_model(path)
    except (ModelsError, OSError):
        print(f"makes a model of {preset}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        config = find_preset(preset).config(
            {"max_steps": STEPS, "batch_size": BATCH, "validation_images": CHECKED, "precision": "float32"}
        )
        train(
            load_dataset("mnist-mini", None),
            preset,
            config,
            folder,
            observe=lambda _: None,
            should_stop=lambda: False,
        )
    return path


def registry(home: Path, *names: str, preset: str) -> None:
    """Publish the artifact of a preset under these names in an installation."""
    for name in names:
        Registry(home / "registry").publish(artifact(preset), name, promote=True)
