"""The embedded broker: durable, one server a home, adopted after a kill."""

import errno
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from snf_worker.broker.connection import durability_risks, redis_client, socket_path
from snf_worker.broker.embedded import EmbeddedBroker, ServerState, keep
from snf_worker.errors import BrokerStartFailed
from snf_worker.jobs.record import Job
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk, refuse_writes
from tests.support.fork_server import Process, fork_server
from tests.support.paths import ROOT
from tests.worker.support.helpers import alive, new_job, until


def server_pid(settings: Settings) -> int:
    return int(redis_client(settings).info("server")["process_id"])


def test_it_is_durable_and_never_evicts(settings: Settings, broker: EmbeddedBroker) -> None:
    client = redis_client(settings)
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "port": "0"}
    assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert durability_risks(client) == []
    client.config_set("appendonly", "no")
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert [risk.partition(": ")[2] for risk in durability_risks(client)] == [
        "set appendonly yes",
        "set maxmemory-policy noeviction",
    ]


def killed_with_a_job(settings: Settings) -> tuple[JobStore, Job]:
    """Kill a server that has accepted a job; return the store and the job."""
    broker = EmbeddedBroker(settings)
    broker.start()
    store = JobStore(redis_client(settings))
    job, _ = store.create(new_job())
    os.kill(server_pid(settings), signal.SIGKILL)
    until(lambda: not broker.alive())
    broker.stop()
    return store, job


def test_an_acknowledged_write_survives_kill_9(settings: Settings) -> None:
    store, job = killed_with_a_job(settings)
    second = EmbeddedBroker(settings)
    assert second.start() == "started"
    assert store.get(job.id) == job
    second.stop()


def test_a_second_one_attaches_and_leaves_the_server_alone(settings: Settings, broker: EmbeddedBroker) -> None:
    pid = server_pid(settings)
    other = EmbeddedBroker(settings)
    assert other.start() == "attached"
    other.stop()
    assert server_pid(settings) == pid


def start_keeper(settings: Settings, **environment: str) -> Process:
    """Starts the process that keeps a server, which is forked."""
    everything = {**os.environ, **settings.environment(), **environment}
    command = [sys.executable, "-m", "snf_worker.broker.embedded"]
    with (settings.home / "keeper.txt").open("ab") as output:
        return fork_server().popen(command, stdout=output, env=everything, cwd=ROOT)


def killed_keeper(settings: Settings, **environment: str) -> int:
    """The process id of a server whose keeper is dead."""
    keeper = start_keeper(settings, **environment)
    until((settings.home / "broker" / "server").exists)
    keeper.kill()
    keeper.wait()
    return server_pid(settings)


def test_another_login_adopts_the_server_of_a_killed_keeper(
    settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anywhere = settings.model_copy(update={"runtime_dir": None})
    pid = killed_keeper(anywhere, XDG_RUNTIME_DIR=str(home), TMPDIR=str(home))
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(home / "other"))
    adopter = EmbeddedBroker(anywhere)
    try:
        assert adopter.start() == "adopted"
        assert server_pid(anywhere) == pid
    finally:
        adopter.stop()
    until(lambda: not alive(pid), 20)


def test_a_left_over_server_on_another_socket_is_replaced(settings: Settings, home: Path) -> None:
    pid = killed_keeper(settings)
    redis_client(settings).set("kept", "yes")
    moved = settings.model_copy(update={"runtime_dir": home / "moved"})
    broker = EmbeddedBroker(moved)
    assert broker.start() == "started"
    assert not alive(pid), "two servers would ruin the append-only file"
    assert redis_client(moved).get("kept") == "yes"
    broker.stop()


def test_a_left_over_server_that_hangs_is_killed_before_another_starts(settings: Settings) -> None:
    pid = killed_keeper(settings)
    redis_client(settings).set("kept", "yes")
    os.kill(pid, signal.SIGSTOP)
    impatient = EmbeddedBroker(settings.model_copy(update={"broker_timeout_s": 0.2}))
    try:
        assert impatient.start(timeout=0.5) == "started"
        assert not alive(pid), "two servers would ruin the append-only file"
        assert redis_client(settings).get("kept") == "yes"
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        impatient.stop()


def test_an_adopted_server_that_hangs_is_killed(settings: Settings) -> None:
    pid = killed_keeper(settings)
    impatient = EmbeddedBroker(settings.model_copy(update={"broker_timeout_s": 0.2}))
    assert impatient.start() == "adopted"
    os.kill(pid, signal.SIGSTOP)
    try:
        impatient.stop(timeout=0.0)
        assert not alive(pid)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def original(settings: Settings, home: Path) -> Iterator[tuple[Settings, int]]:
    """Another installation with the same runtime folder: its settings, and the process id of its server."""
    settings = settings.model_copy(update={"home": home / "original"})
    broker = EmbeddedBroker(settings)
    broker.start()
    pid = server_pid(settings)
    yield settings, pid
    if alive(pid):
        os.kill(pid, signal.SIGCONT)
    broker.stop()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_copy_leaves_the_server_of_the_original_alone(
    hangs: bool, original: tuple[Settings, int], settings: Settings, home: Path
) -> None:
    of_original, pid = original
    shutil.copytree(of_original.home / "broker", settings.home / "broker")
    if hangs:
        os.kill(pid, signal.SIGSTOP)
    copy = EmbeddedBroker(settings.model_copy(update={"runtime_dir": home / "other", "broker_timeout_s": 0.2}))
    try:
        assert copy.start() == "started"
    finally:
        copy.stop()
    assert alive(pid)
    if hangs:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(of_original) == pid


@pytest.mark.parametrize("hangs", [False, True])
def test_the_server_of_another_installation_in_the_runtime_folder_is_refused(
    hangs: bool, original: tuple[Settings, int], settings: Settings
) -> None:
    of_original, pid = original
    if hangs:
        os.kill(pid, signal.SIGSTOP)
    other = EmbeddedBroker(settings.model_copy(update={"broker_timeout_s": 0.2}))
    with pytest.raises(BrokerStartFailed, match=rf"{of_original.home / 'broker'};.*another SNF_RUNTIME_DIR"):
        other.start(timeout=0.1)
    other.stop()
    assert alive(pid)
    if hangs:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(of_original) == pid


def test_a_server_in_another_container_says_whose_it_is(
    original: tuple[Settings, int], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snf_worker.broker.embedded.listener_folder", lambda *_: None)
    with pytest.raises(BrokerStartFailed, match="another installation"):
        EmbeddedBroker(settings).start()
    assert EmbeddedBroker(original[0]).start() == "attached"


def test_a_server_that_took_the_place_of_an_adopted_one_is_neither_attached_to_nor_stopped(
    settings: Settings, home: Path
) -> None:
    pid = killed_keeper(settings)
    adopter = EmbeddedBroker(settings)
    assert adopter.start() == "adopted"
    os.kill(pid, signal.SIGKILL)
    until(lambda: not adopter.alive())
    other = EmbeddedBroker(settings.model_copy(update={"home": home / "other"}))
    assert other.start() == "started"
    try:
        with pytest.raises(BrokerStartFailed, match="another installation"):
            EmbeddedBroker(settings).start()
        adopter.stop()
        assert other.alive()
    finally:
        other.stop()


@pytest.fixture
def crowded(settings: Settings) -> Iterator[int]:
    """The process id of a server that hangs, takes no more connections, and whose keeper is dead."""
    pid = killed_keeper(settings)
    os.kill(pid, signal.SIGSTOP)
    waiting: list[socket.socket] = []
    with suppress(BlockingIOError):
        for _ in range(5000):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect(str(socket_path(settings)))
    assert len(waiting) < 5000
    yield pid
    for connection in waiting:
        connection.close()
    if alive(pid):
        os.kill(pid, signal.SIGKILL)


def test_a_server_whose_queue_of_connections_is_full_hangs_and_is_replaced(settings: Settings, crowded: int) -> None:
    impatient = EmbeddedBroker(settings.model_copy(update={"broker_timeout_s": 0.2}))
    assert impatient.state() is ServerState.HANGS, "it is not absent"
    note = settings.home / "broker" / "server"
    note.write_text(str(os.getpid()))
    with pytest.raises(BrokerStartFailed, match="belongs to another installation"):
        impatient.start(timeout=0.1)
    assert alive(crowded), "a process in another folder is another one"
    note.write_text(str(crowded))
    assert impatient.start(timeout=0.1) == "started"
    assert not alive(crowded)
    impatient.stop()


def test_a_server_that_hangs_gets_a_minute_also_if_it_refuses_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = EmbeddedBroker(settings)
    monkeypatch.setattr(broker, "start", lambda: "adopted")
    monkeypatch.setattr(broker, "state", lambda: ServerState.HANGS)
    pauses: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    assert keep(broker, Stop()) == 1
    assert 55 < sum(pauses) < 65


def test_the_keeper_stops_on_term_and_notices_a_dead_server(settings: Settings) -> None:
    probe = EmbeddedBroker(settings)
    keeper = start_keeper(settings)
    until(probe.alive)
    pid = server_pid(settings)
    keeper.terminate()
    assert keeper.wait(20) == 0
    assert not alive(pid)
    keeper = start_keeper(settings)
    until(probe.alive)
    os.kill(server_pid(settings), signal.SIGKILL)
    assert keeper.wait(20) == 1


def test_a_held_lock_without_a_server_is_an_error(settings: Settings, broker: EmbeddedBroker) -> None:
    os.kill(server_pid(settings), signal.SIGKILL)
    until(lambda: not broker.alive())
    start = time.monotonic()
    with pytest.raises(BrokerStartFailed, match="lock"):
        EmbeddedBroker(settings).start(timeout=0.5)
    assert time.monotonic() - start < 10


def test_space_is_kept_for_the_broker_and_freed_on_a_full_disk(
    settings: Settings, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = settings.home / "broker" / "reserve"
    disk = Disk(monkeypatch, total=64 * MIB, free=23 * MIB)
    broker.reserve.balance()
    assert not kept.exists(), "uploads may use what is free beyond a quarter of the disk"
    disk.free = 25 * MIB
    broker.reserve.balance()
    assert kept.stat().st_size == 8 * MIB
    disk.free = 5 * MIB
    broker.reserve.balance()
    assert kept.exists()
    disk.free = 3 * MIB
    assert not broker.reserve.has_room()
    broker.reserve.balance()
    assert not kept.exists()


def test_an_error_of_the_disk_ends_nothing_and_is_tried_again_after_a_minute(
    settings: Settings, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = settings.home / "broker" / "reserve"
    disk = Disk(monkeypatch, total=64 * MIB, free=25 * MIB)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with monkeypatch.context() as quota:
        refuse_writes(quota, errno.EDQUOT)
        broker.reserve.balance()
    broker.reserve.balance()
    assert not kept.exists()
    now += 61
    broker.reserve.balance()
    assert kept.exists()
    disk.free = 3 * MIB
    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "unlink", failing(errno.EROFS))
        broker.reserve.balance()
    assert kept.exists()
    now += 61
    broker.reserve.balance()
    assert not kept.exists()
    assert caplog.text.count("cannot be changed") == 2


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_the_broker_comes_back_when_there_is_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server has exited, as Valkey does on a full disk; the job that it had accepted is there again."""
    store, job = killed_with_a_job(settings)
    server = EmbeddedBroker(settings)
    disk = Disk(monkeypatch, total=64 * MIB, free=MIB)
    stop = threading.Event()
    codes: list[int] = []
    keeper = threading.Thread(target=lambda: codes.append(keep(EmbeddedBroker(settings), stop)), daemon=True)
    keeper.start()
    time.sleep(1)
    assert keeper.is_alive()
    assert not server.alive(), "it would exit at its first write"
    disk.free = 40 * MIB
    until(server.alive, 20)
    assert store.get(job.id) == job
    stop.set()
    keeper.join(20)
    assert codes == [0]
