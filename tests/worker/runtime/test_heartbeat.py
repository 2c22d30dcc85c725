"""The threads of a worker survive every fault, and a worker that receives no messages is noticed."""

import logging
import threading

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, queue_key, wake
from snf_worker.jobs.worker_registry import WorkerRegistry, WorkerState
from snf_worker.runtime.main import Heartbeat
from snf_worker.runtime.reconciler import PeriodicThread
from snf_worker.settings import Settings


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
