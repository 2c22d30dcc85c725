"""Models that are trained in a few steps, each of them once in a test run."""

from pathlib import Path

import pytest

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import load_dataset
from snf_models.disk import locked
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scoring import EngineOptions
from tests.models.helpers import QUICK
from tests.support.backbones import backbone_folder
from tests.support.compiled_cache import compiled
from tests.support.paths import shared_folder

SMALL_FEATURES = {"feature_side": 64}
"""Digits of 28x28 enlarged to 64x64 have features at 4x4 places: a fit takes a second."""


def barely_trained(factory: pytest.TempPathFactory, seed: int = 0, preset: str = "snf-glow-tiny") -> Path:
    """Return an artifact of real digits, trained by the first process of the test run that needs it."""
    return _trained(factory, f"{preset}-{seed}", preset, QUICK.model_copy(update={"seed": seed}))


def unfit_artifact(factory: pytest.TempPathFactory) -> Path:
    """Return an artifact of real digits after one step of training: no better than independent pixels."""
    return _trained(factory, "unfit", "snf-glow-tiny", QUICK.model_copy(update={"max_steps": 1}))


def feature_artifact(factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a model of features of real digits, fitted by the first process that needs it."""
    preset = "snf-features"
    engine = compiled(backbones=backbone_folder(factory))
    return _trained(factory, preset, preset, find_preset(preset).config(SMALL_FEATURES), engine)


def hybrid_artifact(factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a model of pixels and features of real digits, by the first process that needs it."""
    preset = "snf-hybrid"
    engine = compiled(backbones=backbone_folder(factory))
    config = find_preset(preset).config({**QUICK.model_dump(exclude_unset=True), **SMALL_FEATURES})
    return _trained(factory, preset, preset, config, engine)


def _trained(
    factory: pytest.TempPathFactory, name: str, preset: str, config: TrainingConfig, engine: EngineOptions | None = None
) -> Path:
    folder = shared_folder(factory) / name
    with locked(folder):
        return train(  # which returns the artifact of the folder where there is one
            load_dataset("mnist-mini", None),
            preset,
            config,
            folder,
            observe=lambda _event: None,
            should_stop=lambda: False,
            engine=engine or compiled(),
        )
