"""A child process whose restart fails for a time, and whose output grows."""

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snf_worker import process_setup as lifeline
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker, keep
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.process_setup import ParentDeathPipe
from snf_worker.runtime import launcher
from snf_worker.runtime.launcher import ChildProcess, HangWatch, stop_all, worker_processes
from snf_worker.runtime.machine import WorkerRegistry
from snf_worker.runtime.main import Heartbeat
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk
from tests.support.ports import free_port
from tests.worker.support.helpers import run_program, until


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildProcess]:
    settings = Settings(home=tmp_path, port=free_port(), host="127.0.0.1")
    process = ChildProcess("service", "tests.worker.support.fake_service", settings)
    yield process
    stop_all([process], 0)


def test_a_restart_that_fails_is_tried_again(child: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(launcher, "_LONGEST_PAUSE_S", 0.0)
    child.start()
    before = child.pid
    assert before is not None
    os.kill(before, 9)
    said: list[str] = []

    def restarted() -> bool:
        said.extend(filter(None, [child.restart_if_dead()]))
        return bool(said)

    until(restarted)
    assert said.pop().startswith("service ended by SIGKILL")

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    files = len(list(Path("/dev/fd").iterdir()))
    with monkeypatch.context() as lack:
        lack.setattr(subprocess, "Popen", refused)
        for _ in range(3):
            text = child.restart_if_dead()
            assert text == "service cannot be started: Resource temporarily unavailable; trying again in 0 s"
    assert len(list(Path("/dev/fd").iterdir())) == files
    assert child.restart_if_dead() == "service started again"
    assert child.pid not in (None, before)


def test_output_is_emptied_when_it_is_large(child: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_LARGEST_OUTPUT", 100)
    child.start()
    output = child.settings.logs_dir / "service.out"
    output.write_bytes(b"x" * 100)
    assert child.restart_if_dead() is None
    assert output.stat().st_size == 100
    output.write_bytes(b"x" * 101)
    assert child.restart_if_dead() is None
    assert output.stat().st_size == 0


PID = 4242


def misses_until_hung(*answers: bool, patience_s: float = 0.0) -> int:
    """How many answers are missed after the given ones until a process counts as hung."""
    given = iter(answers)
    watch = HangWatch(lambda: next(given, False), patience_s)
    assert [watch.misses() for _ in answers] == [None] * len(answers)
    return next(count for count in range(1, 1000) if watch.misses() is not None)


def test_a_minute_without_any_answer_is_needed_and_ten_at_the_start() -> None:
    assert misses_until_hung(True) * launcher._EVERY_S >= 60
    assert misses_until_hung(True, patience_s=600) * launcher._EVERY_S >= 600
    assert misses_until_hung() * launcher._EVERY_S >= 600
    assert launcher._READY_S >= 600, "also where `snf up` starts everything for the first time"


def test_one_answer_starts_the_count_anew() -> None:
    most = misses_until_hung(True)
    assert misses_until_hung(True, *([False] * (most - 1)), True) == most


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


def test_a_worker_sends_heartbeats_also_in_an_outage(
    store: JobStore, broker: EmbeddedBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []
    monkeypatch.setattr(lifeline, "beat", lambda: beats.append("beat"))
    registry = WorkerRegistry(redis_client(settings), settings.key_prefix)
    actions = {"reconnect": lambda: None, "give_up": lambda: None}
    heartbeat = Heartbeat(store, registry, settings, "cpu", [Queue.SCORE], job=lambda: None, **actions)
    heartbeat.beat()
    assert [worker.device for worker in registry.workers()] == ["cpu"]
    broker.stop()
    heartbeat.beat()
    assert beats == ["beat"] * 2


def test_a_broker_sends_heartbeats_also_while_it_waits_for_room(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, beats = threading.Event(), []
    disk = Disk(monkeypatch, total=64 * MIB, free=MIB)

    def beat() -> None:
        beats.append(disk.free)
        if len(beats) == 2:
            disk.free = 40 * MIB
        if len(beats) == 4:
            stop.set()

    monkeypatch.setattr("snf_worker.broker.embedded.beat", beat)
    assert keep(EmbeddedBroker(settings), stop) == 0
    assert beats == [MIB, MIB, 40 * MIB, 40 * MIB]


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
        process.start()
    named = (
        f"import os, socket; os.environ.update(SNF_WORKER_HOST={given['SNF_WORKER_HOST']!r});"
        "socket.gethostname = lambda: 'another-name';"
        "from snf_worker.runtime.machine import worker_name; print(worker_name(1))"
    )
    assert run_program(settings, named) == f"{socket.gethostname()}:1"
