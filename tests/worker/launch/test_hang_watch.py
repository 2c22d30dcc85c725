"""When a process counts as hung: the probes and their limits, without real processes."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import redis

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.worker_registry import WorkerInfo, WorkerRegistry
from snf_worker.launch import child_process, launcher
from snf_worker.launch.child_process import HangWatch, broker_probe, worker_probe
from snf_worker.launch.launcher import worker_processes
from snf_worker.runtime import parent_death as lifeline
from snf_worker.runtime.parent_death import ParentDeathPipe
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk
from tests.worker.support.helpers import run_program

PID = 4242


def misses_until_hung(watch: HangWatch) -> int:
    for missed in range(1000):
        if watch.hung is not None:
            assert f"has not answered {missed} times" in watch.hung
            return missed
        watch.check()
    raise AssertionError("it never hangs")


def watch_of(answers: Callable[[], bool], patience_s: float = 0.0) -> HangWatch:
    return HangWatch(PID, lambda _pid: answers(), patience_s)


def once_alive(patience_s: float = 0.0) -> HangWatch:
    answers = iter([True])
    watch = watch_of(lambda: next(answers, False), patience_s)
    watch.check()
    return watch


def test_a_minute_without_any_answer_is_needed_and_ten_at_the_start() -> None:
    assert misses_until_hung(once_alive()) * child_process._EVERY_S >= 60
    assert misses_until_hung(once_alive(patience_s=600)) * child_process._EVERY_S >= 600
    assert misses_until_hung(watch_of(lambda: False)) * child_process._EVERY_S >= 600
    assert launcher._READY_S >= 600, "also where `snf up` starts everything for the first time"


def test_one_answer_starts_the_count_anew_and_a_fault_of_the_probe_does_not_count() -> None:
    most = misses_until_hung(once_alive())
    script = [True, *([False] * (most - 1)), True, *([False] * (most - 1)), *([ZeroDivisionError] * 50), False]
    steps = iter(script)

    def answer() -> bool:
        step = next(steps)
        if isinstance(step, bool):
            return step
        raise ZeroDivisionError

    watch = watch_of(answer)
    for _ in script[:-1]:
        watch.check()
        assert watch.hung is None
    watch.check()
    assert watch.hung is not None


def test_a_child_that_sends_heartbeats_is_alive_whatever_its_clients_do(monkeypatch: pytest.MonkeyPatch) -> None:
    line, gone = ParentDeathPipe(), threading.Event()
    monkeypatch.setenv(lifeline.VARIABLE, str(line.fd))
    monkeypatch.setattr(lifeline, "_parent", None)
    lifeline.beat()  # no parent
    assert lifeline.watch(lambda _message: None, gone.set)
    assert not line.has_beaten()
    for _ in range(100_000):  # more than its socket holds: it goes on
        lifeline.beat()
    while line.has_beaten():
        pass
    lifeline.beat()
    assert line.has_beaten()
    assert not line.has_beaten()
    line.close()
    assert gone.wait(10)
    lifeline.beat()  # the parent is gone


@pytest.fixture
def client(settings: Settings, served: None) -> Iterator[redis.Redis]:
    with redis_client(settings) as client:
        yield client


def announce(client: redis.Redis, settings: Settings, host: str) -> None:
    entry = WorkerInfo(name=f"{host}:{PID}", device="cpu", queues=(), started_at=datetime.now(UTC))
    WorkerRegistry(client, settings.key_prefix).announce(entry, 30)


def test_a_worker_with_an_entry_is_alive_also_after_its_host_has_another_name(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = worker_probe(settings)
    assert not probe(PID)
    announce(client, settings, socket.gethostname())
    assert probe(PID)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-name")
    assert probe(PID)


def test_a_launcher_gives_its_workers_the_host_name_that_it_probes_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    class Started:
        pid = PID

        def __init__(self, *_: object, env: dict[str, str], **_options: object) -> None:
            given.update(env)

    (process,) = worker_processes(settings.model_copy(update={"devices": ("cpu",)}))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Started)
        patch.setattr(threading.Thread, "start", lambda _self: None)
        process.start()
    named = (
        f"import os, socket; os.environ.update(SNF_WORKER_HOST={given['SNF_WORKER_HOST']!r});"
        "socket.gethostname = lambda: 'another-name';"
        "from snf_worker.runtime.machine import worker_name; print(worker_name(1))"
    )
    assert run_program(settings, named) == f"{socket.gethostname()}:1"


def full_memory(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")


def replica(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", 1)


def too_few_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", "1")


@pytest.mark.parametrize("refuse", [full_memory, replica, too_few_replicas])
def test_no_worker_hangs_while_the_broker_answers_and_takes_no_writes(
    refuse: Callable[[redis.Redis], None], broker: EmbeddedBroker, client: redis.Redis, settings: Settings
) -> None:
    probe = worker_probe(settings)
    assert not probe(PID), "the broker takes writes, and the worker made none"
    refuse(client)
    assert probe(PID)


def test_no_worker_hangs_in_an_outage(broker: EmbeddedBroker, settings: Settings) -> None:
    probe = worker_probe(settings)
    broker.stop()
    assert probe(PID)


def test_a_broker_that_waits_for_room_does_not_hang(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = broker_probe(EmbeddedBroker(settings))
    disk = Disk(monkeypatch, total=64 * MIB, free=MIB)
    assert probe(PID)
    disk.free = 40 * MIB
    assert not probe(PID)


def test_a_probe_of_the_broker_asks_its_server(settings: Settings, broker: EmbeddedBroker) -> None:
    assert broker_probe(EmbeddedBroker(settings))(PID)
