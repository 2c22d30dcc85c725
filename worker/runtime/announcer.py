"""The thread that announces a worker in the worker registry."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from worker.errors import BrokerDown
from worker.jobs.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from worker.queues import Queue
from worker.runtime.devices import CPU
from worker.runtime.machine import memory_of_this_machine
from worker.settings import Settings

log = logging.getLogger(__name__)


class Announcer:
    """A thread that keeps one worker announced, and withdraws it at the end."""

    def __init__(
        self,
        registry: WorkerRegistry,
        settings: Settings,
        *,
        name: str,
        device: str,
        queues: Sequence[Queue],
        job: Callable[[], str | None],
        receiving: Callable[[], bool] = lambda: True,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._info = WorkerInfo(
            name=name,
            device=device,
            queues=tuple(queues),
            memory_bytes=memory_of_this_machine(),
            train_memory_bytes=settings.train_memory_bytes,
            train_processes=settings.train_processes if device == CPU else 1,
            started_at=datetime.now(UTC),
        )
        self._job = job
        self._receiving = receiving
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="announcer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and withdraws the worker."""
        self._stop.set()
        self._thread.join(timeout=10)
        try:
            self._registry.withdraw(self._info.name)
        except BrokerDown:
            log.info("could not sign off; the entry of this worker ends by itself")

    def _now(self) -> dict[str, object]:
        job = self._job()
        if job is None and not self._receiving():
            return {"job": None, "state": WorkerState.NOT_RECEIVING}
        return {"job": job, "state": WorkerState.IDLE if job is None else WorkerState.BUSY}

    def _loop(self) -> None:
        while not self._stop.is_set():
            info = self._info.model_copy(update=self._now())
            try:
                self._registry.announce(info, self._settings.lease_seconds)
            except BrokerDown:
                # Said by others already, and the next round tells.
                log.debug("the broker is down; this worker is not announced")
            self._stop.wait(self._settings.heartbeat_seconds)
