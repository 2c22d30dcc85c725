"""What a training took is kept for the next one of its kind."""

from typing import Any

import pytest

from snf_models.artifacts.manifest import read_manifest
from snf_models.datasets import load_dataset
from snf_models.pipeline.presets import find_preset
from snf_models.registry.registry import ZOO
from snf_models.training.config import TrainingConfig
from snf_worker.attempts.train import _store_measured
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.worker_registry import MeasuredTraining, MeasuredTrainings, kind_of_training
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job

PRESET = find_preset("snf-glow-tiny")


def kind(shape: tuple[int, int, int] = (1, 28, 28), device: Any = "cpu", **parameters: Any) -> str:
    config = PRESET.config(parameters)
    return kind_of_training(PRESET.architecture_for(shape, config), config, device)


def test_trainings_of_a_kind_differ_in_steps_minutes_and_rates_alone() -> None:
    assert kind() == kind(max_steps=7, max_minutes=3.0, seed=5, learning_rate=0.1)
    others = [kind((1, 32, 32)), kind(device="cuda"), kind(batch_size=8), kind(precision="float32"), kind()]
    assert len(set(others)) == len(others)


def test_time_grows_with_steps_and_images() -> None:
    measured = MeasuredTraining(step_seconds=0.5, image_seconds=0.01, images=100, memory_bytes=1)
    assert measured.seconds(10, 200) == pytest.approx(5 + 2)


@pytest.mark.parametrize(
    ("changes", "max_minutes", "stored"),
    [({}, None, True), ({"attempts": 2}, None, False), ({"retry_of": "0" * 26}, None, False), ({}, 5.0, False)],
)
def test_only_a_whole_training_in_one_attempt_counts(
    settings: Settings, broker: EmbeddedBroker, changes: dict[str, Any], max_minutes: float | None, stored: bool
) -> None:
    config = PRESET.config({"max_minutes": max_minutes})
    dataset = load_dataset("mnist-mini", None, None, TrainingConfig())
    training = read_manifest(ZOO / "mnist-snf-glow" / "1").training
    spec = new_job(**{"attempts": 1, "device": "cpu"} | changes)
    _store_measured(spec, settings, PRESET, config, dataset, training)
    found = MeasuredTrainings(redis_client(settings), settings.key_prefix).latest(kind())
    assert (found is not None) == stored
    if found is not None:
        assert found.step_seconds == pytest.approx(training.seconds / training.steps)
        assert 1e8 < found.memory_bytes < 1e11
