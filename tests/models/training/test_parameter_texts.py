"""Training parameters in words, made of the fields alone: in docs/training.md."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from snf_models.pipeline.presets import PRESETS, parameter_groups, preset_defaults
from snf_models.training.config import TrainingConfig
from tests.support.documents import check_table
from tests.support.paths import ROOT


def table() -> str:
    lines = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    for title, parameters in parameter_groups().items():
        lines.append(f"| **{title}** | | | |")
        lines += [f"| `{one.name}` | {one.values} | {one.default} | {one.meaning} |" for one in parameters]
    lines += ["", "Presets with other defaults:", "", "| presets | defaults |", "|---|---|"]
    for names, changed in preset_defaults():
        values = ", ".join(f"`{name}={value}`" for name, value in changed.items())
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {values} |")
    return "\n".join(lines) + "\n"


def test_the_document_lists_all_parameters(request: pytest.FixtureRequest) -> None:
    check_table(ROOT / "docs" / "training.md", table(), request.config)


def test_every_parameter_has_one_group_and_a_meaning() -> None:
    parameters = [one for group in parameter_groups().values() for one in group]
    assert sorted(one.name for one in parameters) == sorted(TrainingConfig.model_fields)
    assert all(one.meaning and one.values for one in parameters)
    shown = {one.name: (one.values, one.default) for one in parameters}
    assert shown["batch_size"] == ("integer, 2 to 4096", "64")
    assert shown["max_minutes"] == ("number, above 0, at most 20160", "unset")
    assert shown["image_size"] == ("integer, 4 to 1024, or two as [height, width]", "unset")
    assert shown["recompute"] == ("true or false", "false")
    assert shown["colour"] == ("exact, grey or rgb", "unset")


def test_the_defaults_of_presets_are_those_that_they_train_with() -> None:
    listed = {name: changed for names, changed in preset_defaults() for name in names}
    assert listed["exact-fc-2l"]["learning_rate"] == "0.0001"
    assert "snf-glow-tiny" not in listed
    for name, changed in listed.items():
        defaults = TrainingConfig.model_validate(changed)
        assert defaults == PRESETS[name].config({}).model_copy(update={"gradient_clip": defaults.gradient_clip})


def test_an_interval_of_checkpoints_without_end_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"checkpoint_seconds\n.*greater than or equal to 0\.1"):
        TrainingConfig(checkpoint_seconds=5e-324)
