"""Who is there: workers announce themselves, and vanish when they stop or die."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import training_queue
from snf_worker.jobs.worker_registry import WorkerInfo, WorkerRegistry
from snf_worker.runtime.machine import memory_of_this_machine
from snf_worker.runtime.main import Heartbeat
from snf_worker.settings import Settings
from tests.worker.support.helpers import until


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
