"""The workers of one machine: a process for each device, kept alive."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from worker.jobs.record import Queue
from worker.launch.child_process import Part, mend, stop
from worker.log_setup import configure_logging
from worker.runtime.devices import find_devices, part_name, queues_of
from worker.runtime.machine import memory_of_this_machine, training_memory
from worker.runtime.main import run_worker
from worker.settings import Settings


def worker_parts(settings: Settings, module: str = "worker.runtime.main") -> list[Part]:
    """Return a worker process for each device that can serve a wanted queue; raise `ValueError` where there is none.

    The workers of a machine share its memory, see `training_memory`.
    """
    devices = find_devices(settings.devices)
    wanted = set(settings.queues or Queue)
    able = [device for device in devices if wanted & set(queues_of(device))]
    if not able:
        raise ValueError(f"none of the devices {', '.join(devices)} can serve {', '.join(sorted(wanted))}")
    memory = memory_of_this_machine()
    return [
        Part(
            part_name(device),
            module,
            settings.model_copy(
                update={
                    "devices": (device,),
                    "train_memory_bytes": training_memory(settings, device, len(able), memory),
                }
            ),
        )
        for device in able
    ]


def run_workers(settings: Settings, say: Callable[[str], None] = print) -> int:
    """Works on jobs until TERM or INT: in this process where there is one device, else in one process each.

    Raises `ValueError` where no device can serve a wanted queue.
    """
    parts = worker_parts(settings)
    if len(parts) == 1:
        configure_logging(settings, parts[0].name)
        return run_worker(parts[0].settings)
    configure_logging(settings, "workers", terminal=False)
    say(f"{len(parts)} workers, one a device; their logs are in {settings.logs_dir}")
    asked = threading.Event()

    def ask(_signum: int, _frame: FrameType | None) -> None:
        asked.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for part in parts:
            part.start()
        while not asked.wait(0.2):
            mend(parts, say)
    finally:
        stop(parts, time.monotonic() + settings.kill_after_seconds)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0
