"""The launcher behind ``snf up``: it runs broker, workers and HTTP service as child processes."""

import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from snf_worker.broker.connection import redis_client, runtime_folder_in_use
from snf_worker.broker.embedded import BrokerReserve, EmbeddedBroker, ServerState
from snf_worker.errors import BrokerDown, BrokerStartFailed
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from snf_worker.keys import ensure_keys
from snf_worker.log_setup import configure_logging
from snf_worker.process_setup import protect_home
from snf_worker.runtime.child_process import (
    ChildProcess,
    restart_dead,
    stop_all,
)
from snf_worker.runtime.machine import (
    HOST,
    HOST_VARIABLE,
    find_devices,
    machine_id,
    memory_of_this_machine,
    process_name,
    queues_of,
    training_memory,
)
from snf_worker.settings import Settings, address

log = logging.getLogger(__name__)

_BUSY_S = 120.0
"""Time without a heartbeat in which a service may be busy with requests."""
_READY_S = 600.0
"""Longest time in which the broker, and then the service, must get ready: they may import from a slow disk."""
_BROKER_STOP_S = 15.0
_ENOUGH_DEATHS = 5
_MISSED_BEATS = 12
"""Heartbeats of a worker that it may miss, also where they are rare."""


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


def run_workers(settings: Settings, echo: Callable[[str], None] = print) -> int:
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
            return _run_all(processes, settings, echo)
        os.environ.update(processes[0].variables)
        return run_worker(processes[0].settings)


def _run_all(processes: Sequence[ChildProcess], settings: Settings, echo: Callable[[str], None]) -> int:
    echo(f"{len(processes)} workers, one for each device; their logs are in {settings.logs_dir}")
    with _stop_on_signals() as stop:
        try:
            for process in processes:
                process.start()
            while not stop.wait(0.2):
                restart_dead(processes, echo)
        finally:
            stop_all(processes, time.monotonic() + settings.kill_after_seconds)
    return 0


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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


def supervise(
    settings: Settings,
    echo: Callable[[str], None] | None = None,
    worker: str = "snf_worker.runtime.main",
    service: str = "snf_app.server",
) -> int:
    """Run all until a signal; return 0, 1 if a process keeps dying early, 2 for a busy port or unfit devices."""
    echo = _despite_full_disk(echo or _print)
    busy = port_problem(settings.host, settings.port)
    if busy is not None:
        echo(busy)
        return 2
    try:
        worker_processes(settings)
    except ValueError as problem:
        echo(str(problem))
        return 2
    remark = protect_home(settings.home)
    configure_logging(settings, "launcher", terminal=False)
    if remark is not None:
        log.warning(remark)
        echo(remark)
    ensure_keys(settings, echo)
    try:
        with (
            _stop_on_signals() as stop,
            runtime_folder_in_use(settings),
            closing(Installation(settings, stop, echo, worker, service)) as parts,
        ):
            return parts.run()
    finally:
        _drop_what_cannot_be_printed()


def _drop_what_cannot_be_printed() -> None:
    """Empty the buffer of stdout if its disk is full: else Python would end with exit code 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        log.warning("the last output is lost: %s", error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _despite_full_disk(echo: Callable[[str], None]) -> Callable[[str], None]:
    """Return ``echo`` without its errors: the output may be a file on a full disk, and everything must go on."""

    def try_to_echo(line: str) -> None:
        try:
            echo(line)
        except OSError as error:
            log.warning("not printed, %s: %s", error.strerror, line)

    return try_to_echo


def _print(line: str) -> None:
    print(line, flush=True)


class Installation:
    """Processes of ``snf up``: the broker, a worker for each device, and the HTTP service."""

    def __init__(
        self,
        settings: Settings,
        stop: threading.Event,
        echo: Callable[[str], None],
        worker: str,
        service: str,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._echo = echo
        self._broker = None
        if not settings.redis_url:
            # Else the workers would take the jobs of the other installation while the broker cannot start.
            EmbeddedBroker(settings).refuse_foreign_server()
            self._broker = ChildProcess("broker", "snf_worker.broker.embedded", settings)
        # Only the service checks keys: no other process gets any.
        keys = {"SNF_API_KEYS": ",".join(settings.api_keys)}
        workers = worker_processes(settings.model_copy(update={"beside_service": True}), worker)
        self._others = [*workers, ChildProcess("service", service, settings, keys, _BUSY_S)]

    def run(self) -> int:
        """Run all processes until a stop is requested; return the exit code."""
        started = time.monotonic()
        self._echo("starting broker, workers and service ...")
        if self._broker is not None:
            self._broker.start()
            if not self._until(lambda: self._broker_answers() or not self._broker_has_room()):
                return self._give_up("the broker")
            if not self._broker_has_room():
                self._echo(f"the disk of {self._settings.home} is full: jobs go on when there is room")
        for process in self._others:
            process.start()
        if not self._until(self._service_is_ready):
            return self._give_up("the service")
        if not self._stop.is_set():
            self._echo(welcome(self._settings, time.monotonic() - started))
        while not self._stop.wait(0.2):
            restart_dead(self._processes(), self._echo)
        return 0

    def close(self) -> None:
        """Stop workers and service, then the broker: workers store interrupted jobs in it until their end."""
        self._echo("stopping ...")
        stop_all(self._others, time.monotonic() + self._settings.kill_after_seconds)
        if self._broker is not None:
            stop_all([self._broker], time.monotonic() + _BROKER_STOP_S)
            self._stop_orphaned_server()
        self._echo("stopped")

    def _stop_orphaned_server(self) -> None:
        # A killed broker process leaves its server behind, and its successor may not have adopted it yet.
        server = EmbeddedBroker(self._settings)
        if server.state() is ServerState.ABSENT:
            return
        try:
            log.warning("a server outlived its broker process: %s", server.start(timeout=1.0))
            server.stop()
        except BrokerStartFailed as problem:
            log.error("a server keeps running that cannot be stopped: %s", problem.detail)

    def _processes(self) -> list[ChildProcess]:
        return [*([self._broker] if self._broker is not None else []), *self._others]

    def _until(self, ready: Callable[[], bool]) -> bool:
        """Wait for ``ready`` or a request to stop; return False if time runs out or a process keeps dying."""
        deadline = time.monotonic() + _READY_S
        while not self._stop.is_set():
            if ready():
                return True
            if time.monotonic() > deadline or any(p.deaths >= _ENOUGH_DEATHS for p in self._processes()):
                return False
            restart_dead(self._processes(), self._echo)
            self._stop.wait(0.1)
        return True

    def _give_up(self, what: str) -> int:
        self._echo(f"{what} did not get ready; the logs are in {self._settings.logs_dir}")
        for process in self._processes():
            if process.deaths:
                self._echo(process.output_tail())
        return 1

    def _broker_answers(self) -> bool:
        client = redis_client(self._settings)
        try:
            JobStore(client, self._settings.key_prefix).ping()
        except BrokerDown:
            return False
        finally:
            client.close()
        return True

    def _broker_has_room(self) -> bool:
        return BrokerReserve(self._settings).has_room()

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
