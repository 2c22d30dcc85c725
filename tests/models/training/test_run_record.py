"""The folder of a training keeps its run: another one is refused with the differences, the same one continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import FolderTaken
from models.training.config import TrainingConfig
from models.training.interrupted import Interrupted
from models.training.presets import find_preset
from models.training.run import train
from models.training.run_record import FILE, RunRecord, begun_config, claim_folder
from tests.models.helpers import QUICK
from tests.models.training.runs import Events, small_digits

PRESET = find_preset("snf-glow-small")
EARLIER = replace(PRESET, defaults={"batch_size": 16})
GIVEN = {"max_minutes": 5.0, "seed": 3}


def call(folder: Path, preset: str = "snf-glow-tiny", config: TrainingConfig = QUICK, stop_at: int = 2) -> Events:
    events: Events = []
    steps: Iterator[int] = iter(range(1, stop_at + 1))
    with pytest.raises(Interrupted):
        train(small_digits(), preset, config, folder, observe=events.append, should_stop=lambda: next(steps) >= stop_at)
    return events


def test_an_interrupted_run_of_other_settings_is_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    call(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = QUICK.model_copy(update={"batch_size": 16, "max_minutes": 3.0})
    with pytest.raises(FolderTaken) as refused:
        call(tmp_path, config=other)
    assert f"batch_size: expected {QUICK.batch_size}, got 16" in refused.value.detail
    assert "max_minutes: expected unset, got 3" in refused.value.detail
    with pytest.raises(FolderTaken, match=r"settings: preset: expected snf-glow-tiny, got exact-glow-tiny$"):
        call(tmp_path, preset="exact-glow-tiny")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    [message, *_] = [event["message"] for event in call(tmp_path, stop_at=1) if event["event"] == "log"]
    assert message == "continues from step 2, the newest checkpoint"


def test_a_record_without_checkpoints_loses_nothing_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text("{}")
    call(tmp_path)
    (tmp_path / FILE).write_text('{"preset": 3')
    with pytest.raises(FolderTaken, match="damaged"):
        call(tmp_path)


def record(config: TrainingConfig) -> RunRecord:
    return RunRecord.of("snf-glow-small", ("mnist", "digest"), config, None)


def begin(folder: Path) -> None:
    """Begin a run by the defaults of a version that had no optimizer to choose, and leave a checkpoint."""
    claim_folder(folder, record(EARLIER.config(GIVEN)), write=True)
    document = json.loads((folder / FILE).read_text())
    del document["config"]["optimizer"]
    (folder / FILE).write_text(json.dumps(document))
    (folder / FILE).parent.joinpath("step-00000001").mkdir()


def test_a_new_run_has_the_settings_of_its_preset(tmp_path: Path) -> None:
    assert begun_config(tmp_path, PRESET, GIVEN) == PRESET.config(GIVEN)
    assert PRESET.config(GIVEN).optimizer == "muon"


def test_a_run_goes_on_with_the_settings_that_it_began_with(tmp_path: Path) -> None:
    begin(tmp_path)
    config = begun_config(tmp_path, PRESET, GIVEN)
    assert config.model_dump() == EARLIER.config(GIVEN).model_dump()
    assert (config.batch_size, config.optimizer, config.seed) == (16, "adam", 3)
    claim_folder(tmp_path, record(config), write=True)
    with pytest.raises(FolderTaken, match="optimizer: expected adam, got muon"):
        claim_folder(tmp_path, record(PRESET.config(GIVEN)), write=True)


def test_settings_that_are_asked_for_now_come_first(tmp_path: Path) -> None:
    begin(tmp_path)
    assert begun_config(tmp_path, PRESET, {**GIVEN, "seed": 4}).seed == 4


@pytest.mark.parametrize("content", ["{", '{"preset": "x"}'], ids=["damaged", "of another kind"])
def test_a_record_that_cannot_be_read_leaves_the_settings_of_the_preset(tmp_path: Path, content: str) -> None:
    begin(tmp_path)
    (tmp_path / FILE).write_text(content)
    config = begun_config(tmp_path, PRESET, GIVEN)
    assert config == PRESET.config(GIVEN)
    with pytest.raises(FolderTaken, match="damaged"):
        claim_folder(tmp_path, record(config), write=True)
