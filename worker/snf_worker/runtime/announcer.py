import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from snf_worker.errors import BrokerDown
from snf_worker.jobs.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from snf_worker.queues import Queue
from snf_worker.runtime.machine import machine_id, memory_of_this_machine
from snf_worker.settings import Settings

log = logging.getLogger(__name__)


class Announcer:
    """Thread that renews a worker's entry in the registry of running workers."""

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
            machine=machine_id(),
            device=device,
            queues=tuple(queues),
            memory_bytes=memory_of_this_machine(),
            train_memory_bytes=settings.train_memory_bytes,
            started_at=datetime.now(UTC),
        )
        self._job = job
        self._receiving = receiving
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="announcer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        try:
            self._registry.withdraw(self._info.name)
        except BrokerDown:
            log.info("the broker is down: the entry of this worker expires by itself")

    def _now(self) -> dict[str, object]:
        job = self._job()
        if job is None and not self._receiving():
            return {"job": None, "state": WorkerState.NOT_RECEIVING}
        return {"job": job, "state": WorkerState.IDLE if job is None else WorkerState.BUSY}

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                info = self._info.model_copy(update=self._now())
                self._registry.announce(info, self._settings.lease_seconds)
            except BrokerDown:
                # Other parts log the outage already.
                log.debug("the broker is down: this worker is not announced")
            except Exception:
                # The thread must survive a fault: a worker without an entry counts as dead.
                log.exception("this worker could not be announced")
            self._stop.wait(self._settings.heartbeat_seconds)
