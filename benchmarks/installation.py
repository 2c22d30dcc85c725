"""A real installation for benchmarks: its processes as Linux lists them, and a client that bears outages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common import ROOT, environment, free_port

READY_S = 120
STOP_S = 90
MODULES = {
    "snf_worker.broker.embedded": "keeper",
    "snf_worker.runtime.main": "worker",
    "snf_app.server": "service",
    "snf_worker.attempts.train": "trainer",
    "snf_worker.sandbox.uploads:read_files": "reader",
    "snf_app.cli.main": "launcher",
}


@dataclass(frozen=True)
class Process:
    """A process of an installation; of the broker there are two, the valkey `server` and its `keeper`."""

    pid: int
    role: str
    arguments: tuple[str, ...]


def processes(home: Path) -> list[Process]:
    """Return the living processes that work on ``home``, by what Linux tells of each."""
    found: dict[int, tuple[int, Process]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            arguments = tuple(os.fsdecode(part) for part in (folder / "cmdline").read_bytes().split(b"\0")[:-1])
            role = role_of(arguments)
            if role is None or not works_on(home, folder, role):
                continue
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
        found[int(folder.name)] = (parent, Process(int(folder.name), role, arguments))
    # A fork that has not become its own program yet has its parent's arguments still.
    return [
        process
        for parent, process in found.values()
        if parent not in found or found[parent][1].arguments != process.arguments
    ]


def works_on(home: Path, folder: Path, role: str) -> bool:
    """Tell whether the process in ``/proc/PID`` belongs to the installation of ``home``; raises ``OSError``."""
    if role == "server":  # its title, which it makes itself, lies where its environment was
        return (folder / "cwd").readlink() == home / "broker"
    return b"SNF_HOME=" + os.fsencode(home) in (folder / "environ").read_bytes().split(b"\0")


def role_of(arguments: tuple[str, ...]) -> str | None:
    """Return what a command line runs, None for what is no part of an installation."""
    if arguments and "/valkey-server " in arguments[0]:
        return "server"
    modules = [argument for argument in arguments if argument in MODULES]
    return MODULES[modules[0]] if modules and "-m" in arguments else None


def find(home: Path, role: str) -> Process | None:
    """Return the process with this role, None where there is none now."""
    return next((process for process in processes(home) if process.role == role), None)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


class Running:
    """One process started here; its output goes to ``home/<last argument>.log``."""

    def __init__(self, *arguments: str, home: Path, **settings: Any) -> None:
        self.log = home / f"{arguments[-1]}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=environment(home, **settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> int:
        """Ask it to stop and return its exit code; one that does not stop is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def running(*arguments: str, home: Path, **settings: Any) -> Iterator[Running]:
    """Run ``python -m ...`` until the block ends; raises ``RuntimeError`` where it does not stop cleanly then."""
    process = Running(*arguments, home=home, **settings)
    try:
        yield process
    except BaseException:
        process.stop()
        raise
    code = process.stop()
    if code != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}:\n{process.log.read_text()[-2000:]}")


@contextmanager
def installation(*command: str, home: Path, **settings: Any) -> Iterator[PatientClient]:
    """Run a command that starts a service, wait until it can score, and give a client of it."""
    port = free_port()
    with running(*command, home=home, port=port, **settings) as process, PatientClient(port) as client:
        client.await_ready(process)
        client.pid = process.process.pid
        yield client


def serving(home: Path, **settings: Any) -> AbstractContextManager[PatientClient]:
    """Run the service alone."""
    return installation("snf_app.server", home=home, **settings)


@contextmanager
def snf_up(home: Path, **settings: Any) -> Iterator[PatientClient]:
    """Run everything that ``snf up`` starts; raises ``RuntimeError`` where it leaves a process behind."""
    with installation("snf_app.cli.main", "up", home=home, runtime_dir=home / "run", **settings) as client:
        yield client
    if left := end_all(home):
        raise RuntimeError(f"left behind: {left}")


@contextmanager
def temporary_home(name: str) -> Iterator[Path]:
    """Give a new folder for an installation; in the end kill what still works on it, and delete it.

    SIGTERM is an interruption meanwhile, so that nothing is left behind then either.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix=f"snf-{name}-")).resolve()
    try:
        yield home
    finally:
        end_all(home)
        shutil.rmtree(home, ignore_errors=True)


def end_all(home: Path) -> list[Process]:
    """Kill what still works on ``home`` and return it."""
    left = processes(home)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return left


class PatientClient(httpx.Client):
    """A client whose ``patient`` calls are repeated while the service is away or says 503."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pid = 0
        super().__init__(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    def patient(self, method: str, path: str, seconds: float = 60, **options: Any) -> httpx.Response:
        """Return the first answer that is not 503; raises ``TimeoutError``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.once(method, path, **options)
            if answer is not None:
                return answer
            time.sleep(0.1)
        raise TimeoutError(f"{method} {path} was not answered in {seconds:g} s")

    def once(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return the answer of one call, None where the service is away or says 503."""
        try:
            answer = self.request(method, path, **options)
        except httpx.TransportError:
            return None
        return answer if answer.status_code != 503 else None

    def document(self, path: str, **query: Any) -> dict[str, Any]:
        """Return the JSON document at ``path``; raises ``TimeoutError`` and ``httpx.HTTPStatusError``."""
        found: dict[str, Any] = self.patient("GET", path, params=query).raise_for_status().json()
        return found

    def submit(self, request: dict[str, Any], key: str) -> str:
        """Submit a job once, however often it must be asked for, and return its id."""
        answer = self.patient("POST", "/v1/jobs", json=request, headers={"Idempotency-Key": key})
        return str(answer.raise_for_status().json()["id"])

    def await_ready(self, process: Running) -> None:
        """Wait until the service can score; raises ``RuntimeError`` where its process ends, ``TimeoutError``."""

        def ready() -> bool:
            if process.process.poll() is not None:
                raise RuntimeError(f"it ended before it was ready:\n{process.log.read_text()[-2000:]}")
            return self.once("GET", "/readyz") is not None

        until("readiness", READY_S, ready)


def until(what: str, seconds: float, found: Callable[[], Any]) -> Any:
    """Return what ``found`` gives once it is true; raises ``TimeoutError``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"no {what} after {seconds:g} s")
