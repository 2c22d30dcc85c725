"""Who is there: workers announce themselves, and vanish when they stop or die."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from snf_client.schemas.training import TrainingConfig
from snf_models.artifacts.manifest import read_manifest
from snf_models.datasets import load_dataset
from snf_models.pipeline.presets import find_preset
from snf_models.registry.registry import ZOO
from snf_worker.attempts.train import _store_measured
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerDown
from snf_worker.jobs.measured import MeasuredTraining, MeasuredTrainings, kind_of_training
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, queue_key, training_queue, wake
from snf_worker.process_setup import PeriodicThread
from snf_worker.runtime.machine import WorkerInfo, WorkerRegistry, WorkerState, memory_of_this_machine
from snf_worker.runtime.main import Heartbeat
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job, until


@pytest.fixture
def registry(settings: Settings, served: None) -> WorkerRegistry:
    return WorkerRegistry(redis_client(settings), settings.key_prefix)


def worker(name: str, *queues: Queue) -> WorkerInfo:
    return WorkerInfo(name=name, device="cpu", queues=queues, started_at=datetime.now(UTC))


def heartbeat(
    store: JobStore, registry: WorkerRegistry, settings: Settings, device: str, job: Callable[[], str | None]
) -> Heartbeat:
    actions = {"reconnect": lambda: None, "give_up": lambda: None}
    return Heartbeat(store, registry, settings, device, [Queue.TRAIN_GPU], job=job, **actions)


def test_a_worker_that_died_is_gone_after_its_life(registry: WorkerRegistry) -> None:
    registry.announce(worker("short"), 0.1)
    registry.announce(worker("long"), 30)
    assert [one.name for one in registry.workers()] == ["long", "short"]
    time.sleep(0.15)
    assert [one.name for one in registry.workers()] == ["long"]


def test_a_worker_says_what_it_does_and_signs_off(
    store: JobStore, registry: WorkerRegistry, settings: Settings
) -> None:
    job: list[str | None] = [None]
    beats = heartbeat(store, registry, settings, "cuda:1", lambda: job[0])
    beats.start()
    (found,) = until(registry.workers)
    assert (found.device, found.queues, found.job) == ("cuda:1", (Queue.TRAIN_GPU,), None)
    assert found.memory_bytes == memory_of_this_machine()
    job[0] = "an-id"
    until(lambda: registry.workers()[0].job == "an-id")
    beats.stop()
    assert registry.workers() == []


def test_jobs_go_where_a_worker_can_take_them(registry: WorkerRegistry) -> None:
    assert training_queue("auto", registry.workers()) is Queue.TRAIN_CPU
    registry.announce(worker("cpu", Queue.TRAIN_CPU, Queue.SCORE), 30)
    assert training_queue("auto", registry.workers()) is Queue.TRAIN_CPU
    assert training_queue("cuda", registry.workers()) is Queue.TRAIN_GPU
    registry.announce(worker("gpu", Queue.TRAIN_GPU), 30)
    assert training_queue("auto", registry.workers()) is Queue.TRAIN_GPU
    assert training_queue("cpu", registry.workers()) is Queue.TRAIN_CPU


def test_an_outage_is_told(
    store: JobStore, registry: WorkerRegistry, broker: EmbeddedBroker, settings: Settings
) -> None:
    beats = heartbeat(store, registry, settings, "cpu", lambda: None)
    beats.start()
    broker.stop()
    with pytest.raises(BrokerDown):
        registry.workers()
    beats.stop()
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())


def test_a_thread_goes_on_after_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    calls, enough = iter([ValueError("a fault"), OSError("another")]), threading.Event()

    def call() -> None:
        for fault in calls:
            raise fault
        enough.set()

    thread = PeriodicThread("fragile", 0.001, call)
    with caplog.at_level(logging.ERROR):
        thread.start()
        assert enough.wait(10)
        thread.stop()
    assert caplog.text.count("fragile failed") == 2
    assert "another" in caplog.text


def test_an_idle_worker_whose_messages_wait_reconnects_then_ends(store: JobStore, settings: Settings) -> None:
    done: list[str] = []
    beats = Heartbeat(
        store,
        WorkerRegistry(redis_client(settings), settings.key_prefix),
        settings,
        "cpu",
        [Queue.TRAIN_CPU, Queue.SCORE],
        job=lambda: None,
        reconnect=lambda: done.append("reconnect"),
        give_up=lambda: done.append("give up"),
    )
    idle, deaf = WorkerState.IDLE, WorkerState.NOT_RECEIVING
    assert beats.check(100) is idle
    wake(make_celery(settings), Queue.SCORE)
    assert [beats.check(now) for now in (101, 108.9)] == [idle, idle]
    with beats.delivery():
        assert beats.check(110) is idle
    assert [beats.check(now) for now in (111, 118.9)] == [idle, idle], "it has received a message meanwhile"
    assert done == []
    assert [beats.check(now) for now in (119, 126.9)] == [deaf, deaf]
    assert done == ["reconnect"]
    beats.check(127)
    assert done == ["reconnect", "give up"]
    redis_client(settings).delete(queue_key(settings, Queue.SCORE))
    assert beats.check(128) is idle


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
