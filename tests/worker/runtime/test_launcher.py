"""`snf up` with real processes: start, restart of what dies, clean stop, kill -9, a busy port."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.record import Status
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, submit
from snf_worker.runtime.launcher import port_problem, welcome
from snf_worker.settings import Settings, address
from tests.end_to_end.support.processes import pid_of
from tests.support.fork_server import Process, fork_server
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.unmeasured import MEASURED
from tests.worker.support.helpers import alive, new_job, reaches, until

UNMEASURED = f"import os\nos.environ.pop({MEASURED!r}, None)\n"
"""Before a launcher whose processes need no coverage: they do what those of other tests do."""
HASTY = (
    "from snf_worker.runtime import launcher\n"
    "from snf_worker.settings import Settings\n"
    "launcher._EVERY_S, launcher._BUSY_S, launcher._MISSED_BEATS = 0.3, 3.0, 1\n"
    "Settings.kill_after_seconds = 3.0\n"
)
"""Before a launcher that takes a few seconds of silence for a hang."""
FORKING = (
    "from tests.support.fork_server import fork_server, forked_by\n"
    "forked_by(fork_server(), 'snf_worker.process_setup').__enter__()\n"
)
"""Before a launcher whose processes are forks, which start in milliseconds; their parent is another process."""
PROGRAM = (
    "from snf_worker.runtime import launcher\n"
    "launcher._FIRST_PAUSE_S = 0.05\n"
    "from snf_worker.settings import load_settings\n"
    "raise SystemExit(launcher.supervise(load_settings(), worker='tests.worker.support.fake_worker',"
    " service='{service}'))"
)

FULL_DISK = """import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda _folder: SimpleNamespace(total=64 * 2**20, free=0)
"""
FULL_OUTPUT = """import sys
sys.stdout = open("/dev/full", "w", buffering=1)
"""


SERVICE = "tests.worker.support.fake_service"


def parents() -> list[tuple[int, int]]:
    """Process and parent ids of all processes; small images have no `ps`, macOS has no `/proc`."""
    if not Path("/proc/self/stat").exists():
        command = ["ps", "-e", "-o", "pid=,ppid="]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [(int(line.split()[0]), int(line.split()[1])) for line in listing.splitlines()]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            found.append((int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])))
    return found


class Up:
    """A running launcher, which is a new process or a fork, and what it printed."""

    def __init__(self, settings: Settings, output: Path, service: str, before: str, fork: bool) -> None:
        self._output = output
        program, env = before + PROGRAM.format(service=service), {**os.environ, **settings.environment()}
        self.process: Process
        with output.open("wb") as file:
            if fork:
                command = [sys.executable, "-m", "tests.worker.support.given_program", program]
                self.process = fork_server().popen(command, stdout=file, env=env, cwd=ROOT)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    env=env,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    @property
    def text(self) -> str:
        return self._output.read_text()

    def says(self, pattern: str, seconds: float = 60) -> None:
        until(lambda: re.search(pattern, self.text), seconds)

    def children(self) -> list[int]:
        pairs = parents()
        found, todo = [], [self.process.pid]
        while todo:
            parent = todo.pop()
            below = [pid for pid, ppid in pairs if ppid == parent]
            found += below
            todo += below
        return found


@pytest.fixture
def spacious(settings: Settings) -> Settings:
    return settings.model_copy(update={"port": free_port()})


@pytest.fixture
def up(spacious: Settings) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def go(service: str = SERVICE, before: str = "", fork: bool = True, **changes: object) -> Up:
        settings = spacious.model_copy(update=changes)
        launcher = Up(settings, spacious.home / f"said-{len(started)}.txt", service, before, fork)
        started.append(launcher)
        return launcher

    yield go
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.terminate()
        launcher.process.wait(60)
    until(lambda: not EmbeddedBroker(spacious).alive(), 20)


def stops_cleanly(launcher: Up, number: signal.Signals, said: Callable[[], str], fewest: int) -> None:
    children = launcher.children()
    assert len(children) >= fewest
    launcher.process.send_signal(number)
    assert launcher.process.wait(60) == 0
    assert not any(alive(pid) for pid in children)
    assert said().rstrip().endswith("stopped")
    assert "Traceback" not in launcher.text


def test_start_and_clean_stop_and_start_again_of_all_and_of_what_dies_and_kill_9_leaves_no_orphans(
    up: Callable[..., Up], spacious: Settings
) -> None:
    launcher = up(before=UNMEASURED)
    launcher.says("ready after")
    assert launcher.text.count("curl") == 3
    assert address(spacious) in launcher.text
    redis_client(spacious).set("kept", "yes")
    stops_cleanly(launcher, signal.SIGINT, lambda: launcher.text, 4)  # broker, server, worker, service

    again = up(fork=False)
    again.says("ready after")
    assert again.text.count("curl") == 3
    assert redis_client(spacious).get("kept") == "yes"
    os.kill(int(redis_client(spacious).info("server")["process_id"]), signal.SIGKILL)
    again.says("broker ended with exit code 1.*starting it again")
    again.says("broker started again")
    until(EmbeddedBroker(spacious).alive)
    for pid in [pid for pid, parent in parents() if parent == again.process.pid]:
        os.kill(pid, signal.SIGKILL)
    for name in ("broker", "worker", "service"):
        again.says(f"{name} ended by SIGKILL")
        again.says(f"{name} ended by SIGKILL(?s:.*){name} started again")
    assert again.process.poll() is None
    until(lambda: "broker adopted" in (spacious.logs_dir / "broker.jsonl").read_text())
    children = again.children()
    again.process.kill()
    again.process.wait()
    until(lambda: not any(alive(pid) for pid in children), 40)


def test_what_hangs_is_killed_and_started_again_and_jobs_go_on(up: Callable[..., Up], spacious: Settings) -> None:
    launcher = up(before=UNMEASURED + HASTY + FORKING, broker_timeout_s=0.3)
    launcher.says("ready after")
    store, celery = JobStore(redis_client(spacious)), make_celery(spacious)
    job = submit(store, celery, new_job("wait-for-file"))
    reaches(store, job, Status.RUNNING)
    stopped = [pid_of(spacious.home, module) for module in ("tests.worker.support.fake_worker", SERVICE)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for name in ("worker", "service"):
        launcher.says(f"{name} has not answered 10 times in a row and is killed(?s:.*){name} started again")
    (spacious.jobs_dir / job.id / "go").touch()
    assert reaches(store, job, Status.SUCCEEDED).attempts == 2
    assert not any(alive(pid) for pid in stopped)

    server = int(redis_client(spacious).info("server")["process_id"])
    os.kill(server, signal.SIGSTOP)
    launcher.says("broker ended with exit code 1(?s:.*)broker started again")
    assert not alive(server)
    until(EmbeddedBroker(spacious).alive)
    assert store.get(job.id).status is Status.SUCCEEDED
    job = submit(store, celery, new_job("succeed"))
    assert reaches(store, job, Status.SUCCEEDED).attempts == 1
    assert "killed" in (spacious.logs_dir / "launcher.jsonl").read_text()


def test_a_busy_port_is_a_clear_message(up: Callable[..., Up], spacious: Settings) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", spacious.port))
        other.listen()
        launcher = up()
        assert launcher.process.wait(30) == 2
    assert launcher.text.count("\n") == 1
    assert f"127.0.0.1:{spacious.port}" in launcher.text
    assert "SNF_PORT" in launcher.text
    assert port_problem("127.0.0.1", spacious.port) is None


def test_a_service_that_cannot_start_ends_it_with_the_reason(up: Callable[..., Up]) -> None:
    launcher = up("tests.worker.no_such_service", before=UNMEASURED)
    assert launcher.process.wait(60) == 1
    assert "the service did not get ready" in launcher.text
    assert "no_such_service" in launcher.text


def test_the_welcome_has_three_calls(tmp_path: Path) -> None:
    text = welcome(Settings(home=tmp_path, api_keys=("open-sesame-0123",)), 1.0)
    assert text.count("curl") == 3
    assert "sesame" not in text


def test_a_service_starts_on_a_full_disk_without_its_broker_and_stops_although_its_output_is_there(
    up: Callable[..., Up], spacious: Settings
) -> None:
    # Not all systems have /dev/full, a file on a full disk.
    launcher = up(before=UNMEASURED + FULL_DISK + (FULL_OUTPUT if Path("/dev/full").exists() else ""))

    def said() -> str:
        """What it has printed, or would have."""
        unprinted = re.findall(r'"not printed, No space left on device: (.*?)"', launcher_log(spacious))
        return "\n".join([launcher.text, *unprinted])

    until(lambda: f"the disk of {spacious.home} is full: jobs go on when there is room" in said())
    until(lambda: "ready after" in said())
    stops_cleanly(launcher, signal.SIGTERM, said, 1)  # the service at least


def launcher_log(settings: Settings) -> str:
    path = settings.logs_dir / "launcher.jsonl"
    return path.read_text() if path.exists() else ""
