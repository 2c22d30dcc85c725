"""Estimates of trainings name what they are based on, and come in time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.jobs import estimates
from app.jobs.estimates import JobEstimate, estimate_job
from models.datasets import DatasetSummary
from models.training.config import TrainingConfig
from models.training.cost.estimate import estimate_training
from models.training.cost.throughput import ASSUMED, store_throughput
from models.training.presets import find_preset
from worker.jobs.duration_model import GUESSED, DurationModel
from worker.runtime.throughput import throughput_file
from worker.settings import Settings

ARCHITECTURE = find_preset("snf-glow-tiny").architecture((1, 28, 28), "marginal")
CONFIG = TrainingConfig()


def estimate(settings: Settings, slowdown: float | None = None, config: TrainingConfig = CONFIG) -> JobEstimate:
    durations = cast(DurationModel, SimpleNamespace(slowdown=lambda _device, _preset: slowdown))
    dataset = DatasetSummary((1, 28, 28), 5_000, 500, 500, 1_000)
    return estimate_job("snf-glow-tiny", ARCHITECTURE, config, dataset, "cpu", settings, durations)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "WAIT_S", 300.0)


def test_earlier_jobs_come_before_the_measured_speed_and_that_before_an_assumption(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assumed = estimate(settings)
    assert (assumed.basis, assumed.slowdown) == ("assumed", 1.0)
    half = {name: rate / 2 for name, rate in ASSUMED.model_dump().items()} | {"start_seconds": 4.0}
    store_throughput(throughput_file(settings, "cpu"), ASSUMED.model_copy(update=half))
    measured = estimate(settings)
    assert measured.basis == "measured"
    assert measured.seconds == pytest.approx(2 * assumed.seconds, rel=0.01)
    assert measured.slowdown == pytest.approx(2, rel=0.01)
    earlier = estimate(settings, slowdown=3.0)
    assert (earlier.basis, earlier.slowdown) == ("earlier jobs", pytest.approx(3))
    assert earlier.seconds == pytest.approx(3 * assumed.seconds)
    assert earlier.memory_bytes == measured.memory_bytes == assumed.memory_bytes
    assert earlier.parameters == assumed.parameters > 0


@pytest.mark.parametrize("preset", ["snf-glow-tiny", "snf-glow-small", "exact-glow-medium", "snf-glow-2l-16k"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 256, 256), (3, 64, 64)])
def test_a_guess_is_not_below_the_memory_that_is_counted(preset: str, shape: tuple[int, int, int]) -> None:
    recipe = find_preset(preset)
    config = recipe.config({})
    architecture, dataset = recipe.architecture(shape, config.pixel_transform), DatasetSummary(shape, 600, 90, 90, 0)
    guess = estimates._guess(architecture, config, dataset, 1.0).memory_bytes
    counted = estimate_training(architecture, config, dataset).memory_bytes
    assert counted <= guess < 6 * counted


def test_speed_is_stored_by_device_and_threads(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, train_threads=1)
    files = {throughput_file(settings, kind) for kind in ("cpu", "cuda")}
    files.add(throughput_file(Settings(home=tmp_path, train_threads=2), "cpu"))
    assert len(files) == 3


def test_a_count_that_fails_is_logged_and_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no values here")

    monkeypatch.setattr("models.training.cost.estimate.estimate_training", fail)
    assert estimate(Settings(home=tmp_path)).basis == GUESSED
    assert "no values here" in caplog.text


def test_an_answer_does_not_wait_for_a_slow_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "WAIT_S", 0.05)
    busy, pool = threading.Event(), ThreadPoolExecutor(1)
    pool.submit(busy.wait)
    monkeypatch.setattr(estimates, "_counting", lambda: pool)
    began = time.monotonic()
    try:
        guess = estimate(Settings(home=tmp_path))
        slow = estimate(Settings(home=tmp_path), slowdown=2.0)
        minute = estimate(Settings(home=tmp_path), config=TrainingConfig(max_steps=1_000_000, max_minutes=1))
    finally:
        busy.set()
        pool.shutdown()
    assert time.monotonic() - began < 5
    assert guess.basis == GUESSED
    assert slow.seconds == 2 * guess.seconds > 10
    assert guess.memory_bytes > 3e8
    assert minute.seconds == 60


def test_many_requests_leave_few_counts_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "WAIT_S", 0.0)
    settings, released = Settings(home=tmp_path), threading.Event()
    executor = ThreadPoolExecutor(1)
    monkeypatch.setattr(estimates, "_counting", lambda: executor)
    executor.submit(released.wait, 60)
    begun: list[object] = []
    submit = executor.submit

    def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        return submit(*arguments)

    monkeypatch.setattr(executor, "submit", counted)
    try:
        assert {estimate(settings).basis for _ in range(3 * estimates.MAX_COUNTS)} == {"guessed"}
        assert len(begun) == estimates.MAX_COUNTS
    finally:
        released.set()
        executor.shutdown()
    monkeypatch.undo()
    monkeypatch.setattr(estimates, "WAIT_S", 300.0)
    assert estimate(settings).basis == "assumed"
