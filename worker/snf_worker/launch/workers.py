import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from snf_worker.broker.connection import redis_client
from snf_worker.broker.runtime_folder import runtime_folder_in_use
from snf_worker.errors import BrokerDown
from snf_worker.jobs.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from snf_worker.launch.child_process import ChildProcess, restart_dead, share_threads, stop_all
from snf_worker.launch.hang_watch import worker_probe
from snf_worker.log_setup import configure_logging
from snf_worker.private_home import protect_home
from snf_worker.queues import Queue
from snf_worker.runtime.devices import find_devices, process_name, queues_of
from snf_worker.runtime.machine import machine_id, memory_of_this_machine, training_memory
from snf_worker.runtime.worker_name import HOST, HOST_VARIABLE
from snf_worker.settings import Settings

log = logging.getLogger(__name__)


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
    return [
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
            probe=worker_probe(settings),
        )
        for device in able
    ]


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
        return run_worker(processes[0].settings) if alone else _run_all(processes, settings, echo)


def _run_all(processes: Sequence[ChildProcess], settings: Settings, echo: Callable[[str], None]) -> int:
    echo(f"{len(processes)} workers, one for each device; their logs are in {settings.logs_dir}")
    asked = threading.Event()

    def ask(_signum: int, _frame: FrameType | None) -> None:
        asked.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    share_threads(processes, beside_service=False)
    try:
        for process in processes:
            process.start()
        while not asked.wait(0.2):
            restart_dead(processes, echo)
    finally:
        stop_all(processes, time.monotonic() + settings.kill_after_seconds)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


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
