"""The worker process of one device. It never imports PyTorch: attempts run in processes that it starts."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Task  # type: ignore[import-untyped]
from celery.concurrency.thread import TaskPool  # type: ignore[import-untyped]
from celery.signals import worker_shutting_down  # type: ignore[import-untyped]
from kombu.asynchronous import get_event_loop

from snf_worker import process_setup
from snf_worker.broker.connection import durability_risks, redis_client, runtime_folder_in_use
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import TASK, make_celery, queue_key, wake
from snf_worker.log_setup import configure_logging
from snf_worker.runtime.machine import (
    WorkerInfo,
    WorkerRegistry,
    WorkerState,
    find_devices,
    machine_id,
    memory_of_this_machine,
    process_name,
    queues_of,
    worker_name,
)
from snf_worker.runtime.reconciler import Reconciler
from snf_worker.runtime.supervisor import Command, HelperProcess, Outcome, Supervisor, attempt_command
from snf_worker.settings import Settings, load_settings

log = logging.getLogger(__name__)

NOT_RECEIVING = 70  # exit code of a worker that receives no messages; the process that started it starts another
_RECONNECTING_S = 8.0  # shortest patience in seconds: Celery's own reconnection may take a few seconds


@dataclass(eq=False)
class Heartbeat:
    """Renewal of a worker's registry entry; an idle worker whose messages wait for long reconnects, then ends."""

    store: JobStore
    registry: WorkerRegistry
    settings: Settings
    device: str
    queues: Sequence[Queue]
    job: Callable[[], str | None]
    reconnect: Callable[[], None]
    give_up: Callable[[], None]
    _in_hand: bool = False
    _waits_since: float | None = None
    _reconnected: bool = False  # since then no message has arrived

    def __post_init__(self) -> None:
        self._keys = [queue_key(self.settings, queue) for queue in self.queues]
        self._patience_s = max(2 * self.settings.dispatch_seconds, _RECONNECTING_S)
        self._info = WorkerInfo(
            name=worker_name(),
            machine=machine_id(),
            device=self.device,
            queues=tuple(self.queues),
            memory_bytes=memory_of_this_machine(),
            train_memory_bytes=self.settings.train_memory_bytes,
            started_at=datetime.now(UTC),
        )
        self._thread = process_setup.PeriodicThread("heartbeat", self.settings.heartbeat_seconds, self.beat)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()
        try:
            self.registry.withdraw(self._info.name)
        except BrokerDown:
            log.info("the broker is down: the entry of this worker expires by itself")

    @contextmanager
    def delivery(self) -> Iterator[None]:
        """Mark the worker as busy during the block, in which it handles a message."""
        self._in_hand, self._reconnected = True, False
        try:
            yield
        finally:
            self._in_hand, self._waits_since = False, None

    def beat(self) -> None:
        """Announce this worker, here and to its parent process, and check that it receives its messages."""
        process_setup.beat()
        try:
            idle, job = self.check(time.monotonic()), self.job()
            info = self._info.model_copy(update={"job": job, "state": idle if job is None else WorkerState.BUSY})
            self.registry.announce(info, self.settings.lease_seconds)
        except BrokerDown:
            # Nothing can be received in an outage. Other parts log it.
            self._waits_since, self._reconnected = None, False

    def check(self, now: float) -> WorkerState:
        """Reconnect, then end, an idle worker whose messages wait for twice ``dispatch_seconds``, at least 8 s."""
        waiting = self.store.message_count(self._keys)
        if self._in_hand or not waiting:
            self._waits_since, self._reconnected = None, False
            return WorkerState.IDLE
        since = self._waits_since = self._waits_since or now
        if now - since >= self._patience_s:
            again, self._reconnected, self._waits_since = self._reconnected, True, now
            if again:
                log.critical("%d messages wait and reconnecting did not help: ending this worker", waiting)
                self.give_up()
            else:
                log.error("%d messages wait and none was received for %g s: reconnecting", waiting, self._patience_s)
                self.reconnect()
        return WorkerState.NOT_RECEIVING if self._reconnected else WorkerState.IDLE


class WakingThreads(TaskPool):  # type: ignore[misc]
    """Thread pool that wakes Celery's event loop when a task ends; else it would sleep until a timer is due."""

    def on_apply(self, *args: Any, **options: Any) -> Any:
        result = super().on_apply(*args, **options)
        result.f.add_done_callback(lambda _future: _wake_event_loop())
        return result


def _wake_event_loop() -> None:
    hub = get_event_loop()
    if hub is not None:
        hub.call_soon(lambda: None)  # type: ignore[no-untyped-call]


def run_worker(settings: Settings, command: Command = attempt_command) -> int:
    """Run queued jobs one at a time until SIGTERM or SIGINT; return an exit code, or raise ``ValueError``."""
    (device,) = find_devices(settings.devices)
    queues = queues_to_serve(settings, device)
    client = redis_client(settings)
    store = JobStore(client, settings.key_prefix, settings.idempotency_hours * 3600)
    celery = make_celery(settings)
    stopping = threading.Event()
    registry = WorkerRegistry(client, settings.key_prefix)

    supervisor = Supervisor(store, settings, stopping, command, device)
    helper = HelperProcess(store, settings, stopping, device, queues)
    worker = celery.Worker(
        queues=[queue.value for queue in queues],
        hostname=f"worker@{worker_name()}",
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    heartbeat = Heartbeat(
        store,
        registry,
        settings,
        device,
        queues,
        job=lambda: supervisor.job or helper.job,
        reconnect=lambda: worker.hub.call_soon(_lose_the_connection),
        give_up=lambda: os._exit(NOT_RECEIVING),
    )

    def run_job(task: Task) -> None:
        queue = Queue(task.request.delivery_info["routing_key"])
        with heartbeat.delivery():
            try:
                outcome = supervisor.run(queue)
                # The broker has deleted the message; a job that is still queued needs another one.
                if outcome is Outcome.QUEUED_AGAIN or (outcome is Outcome.NOT_TAKEN and stopping.is_set()):
                    wake(celery, queue)
                elif outcome is Outcome.NOT_TAKEN and queue is Queue.SCORE:
                    helper.run()
            except (BrokerDown, JobNotFound) as problem:
                log.warning("jobs wait for the reconciler: %s", problem.detail)
            stopping.wait(supervisor.back_off_s)

    celery.task(name=TASK, bind=True, ignore_result=True)(run_job)
    reconciler = Reconciler(store, celery, settings, registry)

    def on_shutting_down(**_: object) -> None:
        stopping.set()  # inside the signal handler, where only a flag may be set

    worker_shutting_down.connect(on_shutting_down)
    # Celery's line for each message repeats the supervisor's.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    reconciler.start()
    try:
        for risk in durability_risks(client):
            log.warning("the Redis server may lose jobs: %s", risk)
    except BrokerDown as problem:
        log.warning("%s", problem.detail)
    log.info("worker %s starts on %s, serves %s", worker_name(), device, ", ".join(queues))
    heartbeat.start()
    try:
        worker.start()
    finally:
        reconciler.stop()
        heartbeat.stop()
        log.info("worker stopped")
    return int(worker.exitcode or 0)


def _lose_the_connection() -> None:
    # Celery's event loop takes the error for a broken connection and rebuilds everything that belongs to it.
    raise ConnectionError("no messages arrive")


def queues_to_serve(settings: Settings, device: str) -> list[Queue]:
    """Return the queues that a device can serve and the settings allow; raise ``ValueError`` for an unknown one."""
    able = queues_of(device)
    queues = [queue for queue in able if queue in (settings.queues or able)]
    if not queues:
        raise ValueError(
            f"{device} can serve {', '.join(able)}, not {', '.join(settings.queues)}; change SNF_DEVICES or SNF_QUEUES"
        )
    return queues


def main() -> int:
    """Run the worker process of one device with settings from the environment; return its exit code."""
    settings = load_settings()
    configure_logging(settings, process_name(settings.devices[0]))
    with runtime_folder_in_use(settings):
        return run_worker(settings)


if __name__ == "__main__":
    raise SystemExit(main())
