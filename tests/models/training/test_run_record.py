"""The folder of a training keeps its run: another one is refused with the differences, the same one continues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import FolderTaken
from models.training.config import TrainingConfig
from models.training.interrupted import Interrupted
from models.training.run import train
from models.training.run_record import FILE
from tests.models.helpers import QUICK
from tests.models.training.runs import Events, small_digits


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
