"""The launcher behind ``snf up``: it runs broker, workers and HTTP service as child processes."""

import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from snf_runtime.parallelism import thread_count
from snf_worker.broker.connection import redis_client, runtime_folder_in_use
from snf_worker.broker.embedded import EmbeddedBroker, ServerState
from snf_worker.errors import BrokerDown, BrokerStartFailed
from snf_worker.jobs.record import Queue
from snf_worker.keys import ensure_keys
from snf_worker.log_setup import configure_logging
from snf_worker.process_setup import ParentDeathPipe, how_ended, protect_home, signals_handled_by, start_child
from snf_worker.runtime.machine import (
    HOST,
    HOST_VARIABLE,
    WorkerInfo,
    WorkerRegistry,
    WorkerState,
    find_devices,
    machine_id,
    memory_of_this_machine,
    process_name,
    queues_of,
    training_memory,
)
from snf_worker.settings import Settings, address

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_HEALTHY_S = 60.0
_LARGEST_OUTPUT = 5_000_000
_EVERY_S = 15.0  # pause between two looks for heartbeats, so that a loaded machine has time to recover
_MISSES = 4  # missed heartbeats in a row after which a process hangs: a minute or more without any
_MISSES_AT_START = 40
"""The same for a process that has sent none yet: ten minutes or more, as it may import from a slow disk."""
_BUSY_S = 120.0  # time without a heartbeat in which a service may be busy with requests
_READY_S = 600.0
"""Longest time in which the broker, and then the service, must get ready: they may import from a slow disk."""
_BROKER_STOP_S = 15.0
_ENOUGH_DEATHS = 5
_MISSED_BEATS = 12  # heartbeats of a worker that it may miss, also where they are rare


class HangWatch:
    """Counter of missed heartbeats in a row, not of seconds: a suspended machine must not count."""

    def __init__(self, has_beaten: Callable[[], bool], patience_s: float = 0.0) -> None:
        self._has_beaten = has_beaten
        self._most = max(_MISSES, math.ceil(patience_s / _EVERY_S))
        self._limit = max(self._most, _MISSES_AT_START)  # until the first heartbeat
        self._misses = 0

    def misses(self) -> int | None:
        """Look for a heartbeat; return how many were missed in a row if the process hangs."""
        if self._has_beaten():
            self._misses, self._limit = 0, self._most
        else:
            self._misses += 1
        return self._misses if self._misses >= self._limit else None


class ChildProcess:
    """Module that runs as a child process and is restarted when it ends or hangs, after 0.5 s up to 30 s."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Settings,
        variables: Mapping[str, str] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        self.name = name
        self.deaths = 0  # in a row, each soon after a start
        self._module = module
        self.settings = settings
        self.variables = dict(variables or {})
        # A process that was asked to stop may take as long as that, and does not answer meanwhile.
        self._patience_s = max(patience_s, settings.kill_after_seconds)
        self._output = settings.logs_dir / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: ParentDeathPipe | None = None
        self._started = self._look_at = 0.0
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._limit_output()
        command = [sys.executable, "-m", "snf_worker.process_setup", self._module]
        self._process, self._pipe = start_child(command, self._output, self.settings.environment(), self.variables)
        self._begin_to_watch(self._pipe)
        self._started = time.monotonic()
        self._restart_at = None

    def restart_if_dead(self) -> str | None:
        """Restart a dead process after its pause, or kill one that hangs; never wait; return a message or None."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now < self._restart_at:
                return None
            try:
                self.start()
            except OSError as error:  # such as no memory for another process, which may be there later
                self._restart_at = now + _LONGEST_PAUSE_S
                return f"{self.name} cannot be started: {error.strerror}; trying again in {_LONGEST_PAUSE_S:g} s"
            return f"{self.name} started again"
        if self._process is None or self._pipe is None:
            return None
        code = self._process.poll()
        if code is None:
            self._limit_output()
            return self._kill_if_hung(self._process, self._pipe)
        self._forget()
        self.deaths = 1 if now - self._started > _HEALTHY_S else self.deaths + 1
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.deaths - 1))
        self._restart_at = now + pause
        return f"{self.name} ended {how_ended(code)}, see {self._output}; starting it again in {pause:g} s"

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process without waiting for its end, and cancel a planned restart."""
        self._restart_at = None
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the process to exit, and kill it at ``deadline`` of ``time.monotonic()``."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def output_tail(self) -> str:
        """Return the path of the output and the last 15 lines that the process printed."""
        if not self._output.exists():
            return f"{self.name} left no output"
        lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join([f"last lines of {self._output}:", *(f"  {line}" for line in lines)])

    def share_threads(self, processes: int) -> None:
        """Limit OpenMP to a share of the threads of ``OMP_NUM_THREADS``, or of the cores."""
        self.variables["OMP_NUM_THREADS"] = str(max(1, thread_count(None) // processes))

    def _limit_output(self) -> None:
        """Empty the file of the output when it is large. The process appends, so that it goes on at the start."""
        with suppress(FileNotFoundError):
            if self._output.stat().st_size > _LARGEST_OUTPUT:
                os.truncate(self._output, 0)

    def _begin_to_watch(self, pipe: ParentDeathPipe) -> None:
        self._watch = HangWatch(pipe.has_beaten, self._patience_s)
        self._look_at = time.monotonic() + _EVERY_S

    def _kill_if_hung(self, process: subprocess.Popen[bytes], pipe: ParentDeathPipe) -> str | None:
        if time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + _EVERY_S
        misses = self._watch.misses()
        if misses is None:
            return None
        process.kill()
        # Its end is found at a later call. A process that the system cannot end at once is killed again.
        self._begin_to_watch(pipe)
        return f"{self.name} has not answered {misses} times in a row and is killed"

    def _forget(self) -> None:
        self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def restart_dead(processes: Sequence[ChildProcess]) -> None:
    for process in processes:
        if (message := process.restart_if_dead()) is not None:
            log.warning(message)
            say(message)


def stop_all(processes: Sequence[ChildProcess], deadline: float) -> None:
    """Stop processes by SIGTERM and wait; kill those that run at ``deadline`` of ``time.monotonic()``."""
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.end(deadline)


def worker_processes(settings: Settings, module: str = "snf_worker.runtime.main") -> list[ChildProcess]:
    """Return a process for each device that serves a wanted queue; raise ``ValueError`` if there is none."""
    devices = find_devices(settings.devices)
    wanted = set(settings.queues or Queue)
    able = [device for device in devices if wanted & set(queues_of(device))]
    if not able:
        raise ValueError(
            f"none of the devices {', '.join(devices)} can serve {', '.join(sorted(wanted))}; "
            "change SNF_DEVICES or SNF_QUEUES"
        )
    memory = memory_of_this_machine()
    processes = [
        ChildProcess(
            process_name(device),
            module,
            settings.model_copy(
                update={
                    "devices": (device,),
                    "train_memory_bytes": training_memory(settings, device, len(able), memory),
                }
            ),
            variables={HOST_VARIABLE: HOST},
            patience_s=_MISSED_BEATS * settings.heartbeat_seconds,
        )
        for device in able
    ]
    for process in processes:
        # The service may use all cores: it computes in bursts. A training of as many threads would wait for each.
        process.share_threads(len(able) * (2 if settings.beside_service else 1))
    return processes


def run_workers(settings: Settings) -> int:
    """Run a worker for each device until SIGTERM or SIGINT, a single one in this process; raise ``ValueError``."""
    from snf_worker.runtime.main import run_worker  # noqa: PLC0415  # Celery takes time to import, and the launcher runs none

    processes = worker_processes(settings)
    alone = len(processes) == 1
    remark = protect_home(settings.home)
    configure_logging(settings, processes[0].name if alone else "workers", terminal=alone)
    if remark is not None:
        log.warning(remark)
    with runtime_folder_in_use(settings):
        if not alone:
            return _run_all(processes, settings)
        os.environ.update(processes[0].variables)
        return run_worker(processes[0].settings)


def _run_all(processes: Sequence[ChildProcess], settings: Settings) -> int:
    say(f"{len(processes)} workers, one for each device; their logs are in {settings.logs_dir}")
    with _stop_on_signals() as stop:
        try:
            for process in processes:
                process.start()
            while not stop.wait(0.2):
                restart_dead(processes)
        finally:
            stop_all(processes, time.monotonic() + settings.kill_after_seconds)
    return 0


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    with signals_handled_by(lambda *_: stop.set()):
        yield stop


def check_workers(settings: Settings) -> tuple[bool, str]:
    """Return whether each device has a worker that receives jobs, and a reason; raise ``ValueError``."""
    client = redis_client(settings)
    try:
        workers = WorkerRegistry(client, settings.key_prefix).workers()
    except BrokerDown as problem:
        # Workers cannot renew their entries, and a restart would interrupt jobs without repairing the broker.
        return True, f"cannot be checked: {problem.detail}"
    finally:
        client.close()
    here = {worker.device: worker for worker in workers if _runs_here(worker)}
    wanted = [device for process in worker_processes(settings) for device in process.settings.devices]
    problems = [f"no worker of {device} is alive on this machine" for device in wanted if device not in here]
    problems += [
        f"worker {here[device].name} receives no messages"
        for device in wanted
        if device in here and here[device].state is WorkerState.NOT_RECEIVING
    ]
    if problems:
        return False, "; ".join(problems)
    return True, "; ".join(f"{here[device].name} ({device}): {here[device].state}" for device in wanted)


def _runs_here(worker: WorkerInfo) -> bool:
    machine = machine_id()
    if machine is None or worker.machine is None:  # a worker of an earlier version, or another system than Linux
        return worker.name.startswith(f"{HOST}:")
    return worker.machine == machine


def supervise(settings: Settings, worker: str = "snf_worker.runtime.main", service: str = "snf_app.server") -> int:
    """Run all until a signal; return 0, 1 if a process keeps dying early, 2 for a busy port or unfit devices."""
    try:
        problem = port_problem(settings.host, settings.port)
        workers = worker_processes(settings.model_copy(update={"beside_service": True}), worker)
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        say(problem)
        return 2
    remark = protect_home(settings.home)
    configure_logging(settings, "launcher", terminal=False)
    if remark is not None:
        log.warning(remark)
        say(remark)
    ensure_keys(settings, say)
    try:
        with (
            _stop_on_signals() as stop,
            runtime_folder_in_use(settings),
            closing(Installation(settings, stop, workers, service)) as parts,
        ):
            return parts.run()
    finally:
        _drop_what_cannot_be_printed()


def say(line: str) -> None:
    """Print a line, if possible: the output may be a file on a full disk, and everything must go on."""
    try:
        print(line, flush=True)
    except OSError as error:
        log.warning("not printed, %s: %s", error.strerror, line)


def _drop_what_cannot_be_printed() -> None:
    """Empty the buffer of stdout if its disk is full: else Python would end with exit code 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        log.warning("the last output is lost: %s", error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Installation:
    """Processes of ``snf up``: the broker, a worker for each device, and the HTTP service."""

    def __init__(
        self, settings: Settings, stop: threading.Event, workers: Sequence[ChildProcess], service: str
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._server = None if settings.redis_url else EmbeddedBroker(settings)
        self._broker = []
        if self._server is not None:
            # Else the workers would take the jobs of the other installation while the broker cannot start.
            self._server.refuse_foreign_server()
            self._broker = [ChildProcess("broker", "snf_worker.broker.embedded", settings)]
        # Only the service checks keys: no other process gets any.
        keys = {"SNF_API_KEYS": ",".join(settings.api_keys)}
        self._others = [*workers, ChildProcess("service", service, settings, keys, _BUSY_S)]
        self._processes = [*self._broker, *self._others]

    def run(self) -> int:
        """Run all processes until a stop is requested; return the exit code."""
        started = time.monotonic()
        say("starting broker, workers and service ...")
        if (server := self._server) is not None:
            self._broker[0].start()
            if not self._until(lambda: server.alive() or not server.reserve.has_room()):
                return self._give_up("the broker")
            if not server.reserve.has_room():
                say(f"the disk of {self._settings.home} is full: jobs go on when there is room")
        for process in self._others:
            process.start()
        if not self._until(self._service_is_ready):
            return self._give_up("the service")
        if not self._stop.is_set():
            say(welcome(self._settings, time.monotonic() - started))
        while not self._stop.wait(0.2):
            restart_dead(self._processes)
        return 0

    def close(self) -> None:
        """Stop workers and service, then the broker: workers store interrupted jobs in it until their end."""
        say("stopping ...")
        stop_all(self._others, time.monotonic() + self._settings.kill_after_seconds)
        stop_all(self._broker, time.monotonic() + _BROKER_STOP_S)
        if self._server is not None and self._server.state() is not ServerState.ABSENT:
            # A killed broker process leaves its server behind, and its successor may not have adopted it yet.
            try:
                log.warning("a server outlived its broker process: %s", self._server.start(timeout=1.0))
                self._server.stop()
            except BrokerStartFailed as problem:
                log.error("a server keeps running that cannot be stopped: %s", problem.detail)
        say("stopped")

    def _until(self, ready: Callable[[], bool]) -> bool:
        """Wait for ``ready`` or a request to stop; return False if time runs out or a process keeps dying."""
        deadline = time.monotonic() + _READY_S
        while not self._stop.is_set():
            if ready():
                return True
            if time.monotonic() > deadline or any(process.deaths >= _ENOUGH_DEATHS for process in self._processes):
                return False
            restart_dead(self._processes)
            self._stop.wait(0.1)
        return True

    def _give_up(self, what: str) -> int:
        say(f"{what} did not get ready; the logs are in {self._settings.logs_dir}")
        for process in self._processes:
            if process.deaths:
                say(process.output_tail())
        return 1

    def _service_is_ready(self) -> bool:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past HTTP_PROXY
            with opener.open(f"{address(self._settings)}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def port_problem(host: str, port: int) -> str | None:
    """Return a text that explains why a server cannot listen on a host and port, or None if it can."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        return (
            f"cannot listen on {host}:{port}: {error.strerror or error}. "
            "Stop the program that uses the port, or choose another port: SNF_PORT=8001"
        )
    return None


def welcome(settings: Settings, seconds: float) -> str:
    url = address(settings)
    key = " -H 'Authorization: Bearer <key>'" if settings.has_keys else ""
    image = next(iter(sorted(Path("tests/data").rglob("*.png"))), Path("image.png"))
    body = '{"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny", "model": "first"}'
    return f"""
ready after {seconds:.1f} s: {url}   (documentation: {url}/docs)

score an image:
  curl -s{key} -F images=@{image} {url}/v1/models/mnist-snf-glow/score
train a model on the built-in digits:
  curl -s{key} -H 'Content-Type: application/json' -d '{body}' {url}/v1/jobs
list the jobs:
  curl -s{key} {url}/v1/jobs

Ctrl-C stops everything. State and logs are in {settings.home}.
"""
