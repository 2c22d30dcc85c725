"""Who is there: workers announce themselves, and vanish when they stop or die."""

import threading
import time
from datetime import UTC, datetime

import pytest

from tests.worker.support.helpers import until
from worker.broker.embedded import EmbeddedBroker, redis_client
from worker.errors import BrokerDown
from worker.jobs.record import Queue
from worker.jobs.submission import training_queue
from worker.jobs.worker_registry import Announcer, Presence, WorkerInfo
from worker.runtime.machine import memory_of_this_machine
from worker.settings import Settings


@pytest.fixture
def presence(settings: Settings, broker: EmbeddedBroker) -> Presence:
    return Presence(redis_client(settings), settings.key_prefix)


def worker(name: str, *queues: Queue) -> WorkerInfo:
    return WorkerInfo(name=name, device="cpu", queues=queues, started_at=datetime.now(UTC))


def test_a_worker_that_died_is_gone_after_its_life(presence: Presence) -> None:
    presence.announce(worker("short"), 0.1)
    presence.announce(worker("long"), 30)
    assert [one.name for one in presence.workers()] == ["long", "short"]
    time.sleep(0.15)
    assert [one.name for one in presence.workers()] == ["long"]


def test_a_worker_says_what_it_does_and_signs_off(presence: Presence, settings: Settings) -> None:
    job: list[str | None] = [None]
    announcer = Announcer(presence, settings, name="me", device="cuda:1", queues=[Queue.TRAIN_GPU], job=lambda: job[0])
    announcer.start()
    (found,) = until(presence.workers)
    assert (found.device, found.queues, found.job) == ("cuda:1", (Queue.TRAIN_GPU,), None)
    assert found.memory_bytes == memory_of_this_machine()
    job[0] = "an-id"
    until(lambda: presence.workers()[0].job == "an-id")
    announcer.stop()
    assert presence.workers() == []


def test_jobs_go_where_a_worker_can_take_them(presence: Presence) -> None:
    assert training_queue("auto", presence) is Queue.TRAIN_CPU
    presence.announce(worker("cpu", Queue.TRAIN_CPU, Queue.SCORE), 30)
    assert training_queue("auto", presence) is Queue.TRAIN_CPU
    assert training_queue("cuda", presence) is Queue.TRAIN_GPU
    presence.announce(worker("gpu", Queue.TRAIN_GPU), 30)
    assert training_queue("auto", presence) is Queue.TRAIN_GPU
    assert training_queue("cpu", presence) is Queue.TRAIN_CPU


def test_an_outage_is_told(presence: Presence, broker: EmbeddedBroker, settings: Settings) -> None:
    announcer = Announcer(presence, settings, name="me", device="cpu", queues=[], job=lambda: None)
    announcer.start()
    broker.stop()
    with pytest.raises(BrokerDown):
        presence.workers()
    announcer.stop()
    assert not any(thread.name == "announcer" for thread in threading.enumerate())
