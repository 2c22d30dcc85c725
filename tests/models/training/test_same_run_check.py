"""The folder of a training keeps its run: another one is refused with the differences, the same one continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snf_client.schemas.training import MAX_STEPS
from snf_models.errors import FolderTaken, Interrupted
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import FILE, RunRecord, begun_config, claim_folder, train
from snf_models.training.config import TrainingConfig
from tests.models.helpers import QUICK
from tests.models.training.runs import Events, small_digits

PRESET = find_preset("snf-glow-small")
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
    messages = [event["message"] for event in call(tmp_path, stop_at=1) if event["event"] == "log"]
    assert "continues from step 2, the newest checkpoint" in messages


def test_a_record_without_checkpoints_loses_nothing_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text("{}")
    call(tmp_path)
    (tmp_path / FILE).write_text('{"preset": 3')
    with pytest.raises(FolderTaken, match="damaged"):
        call(tmp_path)


def record(config: TrainingConfig) -> RunRecord:
    return RunRecord.of("snf-glow-small", ("mnist", "digest"), config, None)


def begin(folder: Path, *, earlier: bool) -> TrainingConfig:
    """Begin a run, leave a checkpoint, return the settings. An earlier version had no optimiser to choose."""
    begun = replace(PRESET, defaults={} if earlier else PRESET.defaults).config(GIVEN)
    claim_folder(folder, record(begun))
    document = json.loads((folder / FILE).read_text())
    if earlier:
        del document["config"]["optimizer"]
    (folder / FILE).write_text(json.dumps(document))
    (folder / FILE).parent.joinpath("step-00000001").mkdir()
    return begun


def test_a_new_run_has_the_settings_of_its_preset(tmp_path: Path) -> None:
    assert begun_config(tmp_path, PRESET, GIVEN).model_dump() == PRESET.config(GIVEN).model_dump()
    assert PRESET.config(GIVEN).optimizer == "muon"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_goes_on_with_the_optimiser_that_it_began_with(tmp_path: Path, earlier: bool) -> None:
    begun = begin(tmp_path, earlier=earlier)
    config = begun_config(tmp_path, PRESET, GIVEN)
    assert config.model_dump() == begun.model_dump()
    assert config.optimizer == ("adam" if earlier else "muon")
    claim_folder(tmp_path, record(config))


def test_minutes_of_a_file_go_on_with_the_steps_at_which_an_earlier_version_cut_them(tmp_path: Path) -> None:
    file = parse_architecture({"levels": [{"steps": [{"type": "actnorm"}]}], "training": {"max_minutes": 5}})
    assert begun_config(tmp_path, file, {}).max_steps == MAX_STEPS
    (tmp_path / FILE).parent.joinpath("step-00000001").mkdir(parents=True)
    claim_folder(tmp_path, record(file.config({})))
    assert begun_config(tmp_path, file, {}).max_steps == MAX_STEPS
    (tmp_path / FILE).unlink()
    claim_folder(tmp_path, record(file.config({"max_steps": 2000})))
    claim_folder(tmp_path, record(begun_config(tmp_path, file, {})))
    for other in ({"max_minutes": 5.0}, {"max_steps": 500}):
        with pytest.raises(FolderTaken, match="max_steps: expected 2000, got"):
            claim_folder(tmp_path, record(begun_config(tmp_path, file, other)))


def test_another_setting_than_before_is_still_refused(tmp_path: Path) -> None:
    begin(tmp_path, earlier=True)
    config = begun_config(tmp_path, PRESET, {**GIVEN, "optimizer": "muon"})
    with pytest.raises(FolderTaken, match="optimizer: expected adam, got muon"):
        claim_folder(tmp_path, record(config))
    config = begun_config(tmp_path, PRESET, {"max_minutes": 5.0})
    with pytest.raises(FolderTaken, match="seed: expected 3, got 0"):
        claim_folder(tmp_path, record(config))


def test_checkpoints_without_a_record_are_those_of_an_earlier_version(tmp_path: Path) -> None:
    begin(tmp_path, earlier=True)
    (tmp_path / FILE).unlink()
    assert begun_config(tmp_path, PRESET, GIVEN).optimizer == "adam"


def test_a_finished_model_of_an_earlier_version_is_that_of_its_optimiser(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"max_steps": 2})
    path = train(small_digits(), NARROW, config, tmp_path, observe=lambda _event: None, should_stop=lambda: False)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["training"]["config"]["optimizer"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    again = train(small_digits(), NARROW, config, tmp_path, observe=lambda _event: None, should_stop=lambda: False)
    assert again == path
    with pytest.raises(FolderTaken, match="optimizer: expected adam, got muon"):
        train(
            small_digits(),
            NARROW,
            config.model_copy(update={"optimizer": "muon"}),
            tmp_path,
            observe=lambda _event: None,
            should_stop=lambda: False,
        )


NARROW = replace(find_preset("snf-glow-tiny"), steps=1, width=8, defaults={"optimizer": "muon"})
"""A preset whose default is another optimiser than that of an earlier version."""
