"""Runs and their records."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snf_client.schemas.training import MAX_STEPS, TrainingConfig
from snf_models.artifacts.manifest import read_manifest
from snf_models.bijections.channels import ActNorm, SelfNormalizingConv1x1
from snf_models.datasets import Dataset, load_dataset
from snf_models.errors import FolderTaken, Interrupted
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow
from snf_models.pipeline.architecture_file import parse_architecture, read_architecture_file
from snf_models.pipeline.checkpoint import identity_of
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import RUN_FILE, RunRecord, begun_config, claim_folder, train
from snf_models.registry.registry import ZOO
from tests.models.helpers import QUICK, dequantised
from tests.models.training.runs import Events, small_digits, train_whole

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
    (tmp_path / RUN_FILE).parent.mkdir()
    (tmp_path / RUN_FILE).write_text("{}")
    call(tmp_path)
    (tmp_path / RUN_FILE).write_text('{"preset": 3')
    with pytest.raises(FolderTaken, match="damaged"):
        call(tmp_path)


def record(config: TrainingConfig) -> RunRecord:
    return RunRecord.of("snf-glow-small", ("mnist", "digest"), config, None)


def begin(folder: Path, *, earlier: bool) -> TrainingConfig:
    """Begin a run, leave a checkpoint, return the settings. An earlier version had no optimiser to choose."""
    begun = replace(PRESET, defaults={} if earlier else PRESET.defaults).config(GIVEN)
    claim_folder(folder, record(begun))
    document = json.loads((folder / RUN_FILE).read_text())
    if earlier:
        del document["config"]["optimizer"]
    (folder / RUN_FILE).write_text(json.dumps(document))
    (folder / RUN_FILE).parent.joinpath("step-00000001").mkdir()
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
    (tmp_path / RUN_FILE).parent.joinpath("step-00000001").mkdir(parents=True)
    claim_folder(tmp_path, record(file.config({})))
    assert begun_config(tmp_path, file, {}).max_steps == MAX_STEPS
    (tmp_path / RUN_FILE).unlink()
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
    (tmp_path / RUN_FILE).unlink()
    assert begun_config(tmp_path, PRESET, GIVEN).optimizer == "adam"


def test_a_finished_model_of_an_earlier_version_is_that_of_its_optimiser(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"max_steps": 2})
    path = train_whole(small_digits(), NARROW, config, tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["training"]["config"]["optimizer"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    again = train_whole(small_digits(), NARROW, config, tmp_path)
    assert again == path
    with pytest.raises(FolderTaken, match="optimizer: expected adam, got muon"):
        train_whole(small_digits(), NARROW, config.model_copy(update={"optimizer": "muon"}), tmp_path)


NARROW = replace(find_preset("snf-glow-tiny"), steps=1, width=8, defaults={"optimizer": "muon"})
"""A preset whose default is another optimiser than that of an earlier version."""


GLOW = (
    '{"channels":1,"height":28,"width":28,"pixel_transform":"marginal","family":"glow","levels":2,"steps":8,'
    '"hidden":128,"linear":"self-normalizing"}'
)
SETTINGS = (
    '{"image_size":null,"automatic_side":64,"fit":null,"colour":null,"levels":null,"max_steps":2000,'
    '"max_minutes":null,"batch_size":64,"learning_rate":0.002,"warmup_steps":100,"final_learning_rate":0.02,'
    '"reconstruction_weight":100.0,"multiplier":"fixed","reconstruction_target":0.001,'
    '"symmetric_reconstruction":false,"noise_reconstruction":0.0,"gradient":"paper","refresh_inverse_every":0,'
    '"suspect_share":0.0,"gradient_clip":5.0,"ema_decay":0.999,"pixel_transform":"marginal","precision":"auto",'
    '"recompute":false,"seed":0,"validation_images":1000,"validations":20,"checkpoint_seconds":60.0,'
    '"backbone":"efficientnet-lite0","feature_side":null,"feature_steps":0,"feature_updates":300}'
)
"""As an earlier version wrote them, without `augmentation`, `whitening`, `optimizer` and `corrected_directions`."""


def identity(config: TrainingConfig) -> str:
    images = np.zeros((1, 1, 28, 28), np.uint8)
    dataset = Dataset("blank", images, images, images, images, "digest")
    return identity_of(dataset, GlowArchitecture.model_validate_json(GLOW), config, None)


def test_checkpoints_of_earlier_versions_still_belong_to_their_trainings() -> None:
    assert identity(TrainingConfig()) == hashlib.sha256(f"{GLOW}{SETTINGS}digest".encode()).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [{"augmentation": "flip"}, {"whitening": True}, {"optimizer": "muon"}, {"corrected_directions": 5}, {"seed": 1}],
    ids=str,
)
def test_another_setting_is_another_training(changed: dict[str, object]) -> None:
    assert identity(TrainingConfig().model_copy(update=changed)) != identity(TrainingConfig())


SHIPPED = {"mnist-snf-glow": "mnist", "fashion-snf-glow": "fashion-mnist", "cifar10-snf-glow": "cifar10"}
"""The datasets of the shipped models."""


def test_every_shipped_model_has_a_recipe() -> None:
    models = {path.name for path in ZOO.iterdir() if (path / "1").is_dir()}
    assert models == {path.stem for path in ZOO.glob("*.json")} == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
@torch.no_grad()
def test_a_recipe_starts_from_white_images_of_the_shape_of_its_model(name: str) -> None:
    recipe, manifest = parse_architecture(read_architecture_file(ZOO / f"{name}.json")), read_manifest(ZOO / name / "1")
    config = recipe.config({"max_minutes": 45.0})
    assert (recipe.name, manifest.training.dataset) == (name, SHIPPED[name])
    assert (config.max_steps, config.whitening) == (MAX_STEPS, True)
    flow = build_flow(recipe.architecture_for(manifest.architecture.image_shape, config))
    shape = manifest.architecture.image_shape
    pixels = np.resize(load_dataset("mnist-mini", None).train, (100, *shape))
    x = dequantised(pixels).float()
    flow.initialize(x, whiten=config.whitening)
    for level in flow.level_list():
        rotation, scaling = level.steps[0], level.steps[1]
        assert isinstance(rotation, SelfNormalizingConv1x1)
        assert isinstance(scaling, ActNorm)
        torch.testing.assert_close(rotation.inverse_weight @ rotation.weight, torch.eye(rotation.channels))
    # After squeeze, rotation and scaling the channels of the first level are white.
    y = flow.pixels(x.double())[0].float()
    for layer in list(flow.eval().level_list()[0].bijections())[:3]:
        y, _ = layer(y)
    covariance = torch.cov(y.transpose(0, 1).flatten(1), correction=0)
    torch.testing.assert_close(covariance, torch.eye(len(covariance)), rtol=0, atol=1e-4)
