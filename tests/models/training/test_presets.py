"""Presets learn, take the settings that a user asks for, and refuse images that do not fit.

tests/test_checked_models.py has them exported, resumed and served.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from snf_models.datasets import Dataset
from snf_models.errors import DatasetUnfit
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.pipeline import loop
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS, find_preset
from tests.models.helpers import real_images

OF_PIXELS = {name for name, preset in PRESETS.items() if preset.family not in ("features", "hybrid")}


def of_different_layers() -> list[str]:
    """The smallest of the presets of pixels that have the same layers and levels in other numbers and widths."""
    smallest: dict[tuple[object, ...], str] = {}
    for name in sorted(OF_PIXELS, key=lambda name: (PRESETS[name].steps * PRESETS[name].width, name)):
        preset = PRESETS[name]
        kind = (preset.family, preset.linear, preset.levels, preset.kernel, preset.defaults.get("pixel_transform"))
        smallest.setdefault(kind, name)
    return sorted(smallest.values())


def cropped(side: int) -> Dataset:
    """Real digits cut to the middle."""
    images = real_images(120, side)
    return Dataset(f"digits-{side}", images[:80], images[80:100], images[100:], images[100:], f"digest-{side}")


@pytest.mark.parametrize("name", of_different_layers())
def test_a_preset_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS_BETWEEN_VALIDATIONS", 12)  # the steps after which a training has a course
    preset = replace(PRESETS[name], width=min(PRESETS[name].width, 32), steps=min(PRESETS[name].steps, 2))
    dataset = cropped(16 if preset.levels == 3 else 8)
    short = {"max_steps": 12, "batch_size": 16, "warmup_steps": 5, "validations": 1, "validation_images": 20}
    config = preset.config({**short, "precision": "float32"})
    architecture = preset.architecture(dataset.image_shape, config.pixel_transform)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    trained = Trainer(dataset, architecture, config, tmp_path, lambda _event: None).run(lambda: False)
    assert trained.first_validation is not None
    assert trained.last_validation is not None
    assert trained.last_validation < trained.first_validation


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("glow-3l-32k", (1, 28, 28), "halves both sides 3 times: .*, got 28x28"),
        ("snf-conv-9l", (1, 30, 30), "halves both sides 2 times: .*, got 30x30"),
        ("snf-fc-2l", (3, 64, 64), "at most 4096 dimensions"),
        ("snf-glow-small", (1, 27, 27), "27x27"),
        ("snf-glow-small", (5, 32, 32), "1 to 4 channels"),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, shape: tuple[int, int, int], text: str) -> None:
    with pytest.raises(DatasetUnfit, match=text):
        find_preset(name).architecture(shape, "logit")


def test_what_a_user_asks_for_comes_before_the_preset() -> None:
    preset = find_preset("snf-fc-2l")
    assert preset.config({}).learning_rate == 1e-4
    assert preset.config({"learning_rate": 0.5}).learning_rate == 0.5
    assert preset.config({}).pixel_transform == "logit"
