"""The images that evaluate and calibrate a model where the time left is too short for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snf_models.artifacts.manifest import read_manifest
from snf_models.datasets import Dataset, load_dataset
from snf_models.pipeline import artifact as module
from snf_models.pipeline.artifact import EvaluationPlan, EvaluationTimeLeft
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import load_model
from tests.models.training.runs import TORCH, small_digits

DIGITS = load_dataset("mnist-mini", None)


def digits(statistics: int, calibration: int, test: int) -> Dataset:
    """Handwritten digits with parts of these sizes; digits are repeated."""
    images = np.concatenate([DIGITS.train, DIGITS.test])

    def part(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return images[np.arange(count) % len(images)]

    return replace(DIGITS, statistics=part(statistics), calibration=part(calibration), test=part(test))


def test_the_images_fit_the_time_left() -> None:
    whole = EvaluationPlan.whole(digits(5000, 5000, 10_000), 0.002)
    assert whole.total_seconds == pytest.approx(20_000 * 0.002)
    assert whole.within(200) == whole
    half = whole.within(20)
    assert 19 < half.total_seconds <= 20
    assert half.images["test"] == pytest.approx(5000, abs=30)
    least = {"statistics": 300, "calibration": 400, "test": 200}
    assert whole.within(900 * 0.002 + 0.01).images == least
    assert whole.within(-3).images == least
    few = EvaluationPlan.whole(digits(50, 60, 70), 0.002)
    assert few.within(few.total_seconds).images["test"] == 70


def test_the_images_taken_are_spread_over_the_part() -> None:
    """The first images of a test set are no sample of it: those of MNIST are the easier half."""
    dataset = digits(1000, 1000, 600)
    numbered = np.zeros((1000, 1, 28, 28), np.uint8)
    numbered[:, 0, 0, 0], numbered[:, 0, 0, 1] = np.divmod(np.arange(1000), 256)
    plan = EvaluationPlan({"statistics": 1000, "calibration": 400, "test": 600}, 0.0)
    statistics, calibration, _ = plan.part_of(replace(dataset, calibration=numbered))
    assert statistics is dataset.statistics
    numbers = calibration[:400][:, 0, 0, 0].astype(int) * 256 + calibration[:400][:, 0, 0, 1]
    assert len(set(numbers)) == 400
    assert np.abs(numbers - np.linspace(0, 999, 400)).max() <= 1


def test_time_left_follows_the_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = EvaluationTimeLeft(EvaluationPlan({"statistics": 100, "test": 300}, 0.1), 5)
    now[0] = 20.0  # twice as long as expected
    assert progress.seconds_left("statistics", 100) == pytest.approx(30 * 2 + 5)
    now[0] = 80.0
    assert progress.seconds_left("test", 300) == pytest.approx(5)


def test_a_job_says_that_it_calibrates_with_fewer_images(tmp_path: Path) -> None:
    """A real training of half a second whose parts would take longer; the counts are in its manifest."""
    config = find_preset("snf-glow-tiny").config({"max_minutes": 0.01, "batch_size": 32})
    events: list[dict[str, Any]] = []
    dataset = small_digits()
    parts = {name: getattr(dataset, name).repeat(250, 0) for name in ("statistics", "calibration", "test")}
    dataset = replace(dataset, **parts)
    path = train(
        dataset,
        "snf-glow-tiny",
        config,
        tmp_path,
        observe=events.append,
        should_stop=lambda: False,
        engine=TORCH,
    )
    (said,) = [event["message"] for event in events if event["event"] == "log" and "too short" in event["message"]]
    manifest = read_manifest(path)
    used = manifest.calibration
    assert 300 <= used.statistics_images < 10_000
    calibration_images = used.calibration_images + used.copies
    assert 400 <= calibration_images < 10_000
    assert f"{used.statistics_images} of 10000 statistics, {calibration_images} of 10000 calibration" in said
    assert 200 <= manifest.evaluation.test_images < 10_000
    assert len(load_model(path, options=TORCH).detect(dataset.test[:2])) == 2


def test_progress_rises_to_the_end_of_the_evaluation(tmp_path: Path) -> None:
    config = find_preset("snf-glow-tiny").config(
        {"max_steps": 8, "batch_size": 32, "validations": 1, "validation_images": 20}
    )
    events: list[dict[str, Any]] = []
    train(
        small_digits(),
        "snf-glow-tiny",
        config,
        tmp_path,
        observe=events.append,
        should_stop=lambda: False,
        engine=TORCH,
    )
    told = [event for event in events if "progress" in event]
    fractions = [event["progress"] for event in told]
    assert fractions == sorted(fractions)
    last_step = max(event["progress"] for event in told if event["event"] == "metrics")
    assert last_step < 0.95
    scoring = [event for event in told if event["event"] == "scoring"]
    assert scoring[0]["eta_seconds"] > scoring[-1]["eta_seconds"] > 0
    assert scoring[-1]["progress"] < 1
