"""The worker process of one device. It never imports PyTorch: attempts run in processes that it starts."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]
from celery.concurrency.thread import TaskPool  # type: ignore[import-untyped]
from celery.signals import worker_shutting_down  # type: ignore[import-untyped]
from kombu.asynchronous import get_event_loop

from snf_worker.broker.celery_app import ASSIST, TASK, make_celery, queue_keys
from snf_worker.broker.connection import durability_risks, redis_client, runtime_folder_in_use
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import send_again
from snf_worker.jobs.worker_registry import Heartbeat, WorkerRegistry
from snf_worker.log_setup import configure_logging
from snf_worker.runtime.helper import MAX_ASSISTANTS, HelperProcess, call_assistants, takes_assistants
from snf_worker.runtime.machine import find_devices, process_name, queues_of, worker_name
from snf_worker.runtime.process import Command, attempt_command
from snf_worker.runtime.reconciler import Reconciler
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings, load_settings

_RECONNECTING_S = 8.0
"""Shortest patience in seconds: Celery's own reconnection may take a few seconds."""


class Watchdog:
    """Thread that reconnects an idle worker whose queues hold messages for long, and ends it if that fails."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        queues: Sequence[Queue],
        reconnect: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._store = store
        self._keys = [key for queue in queues for key in queue_keys(settings, queue)]
        self._patience_s = max(2 * settings.dispatch_seconds, _RECONNECTING_S)
        self._every_s = settings.heartbeat_seconds
        self._reconnect = reconnect
        self._give_up = give_up
        self._lock = threading.Lock()
        self._in_hand = False
        self._waits_since: float | None = None
        self._reconnected = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    @property
    def receiving(self) -> bool:
        """Whether messages are received; False after a reconnection until one arrives or none waits."""
        return not self._reconnected

    @contextmanager
    def delivery(self) -> Iterator[None]:
        """Mark the worker as busy during the block, in which it handles a message."""
        self._begin(in_hand=True)
        try:
            yield
        finally:
            self._begin(in_hand=False)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def check(self, now: float) -> None:
        """Reconnect, then end, an idle worker whose messages wait for twice ``dispatch_seconds``, at least 8 s."""
        try:
            waiting = self._store.lines.message_count(self._keys)
        except BrokerDown:
            waiting = 0  # nothing can be received in an outage
        with self._lock:
            if self._in_hand or not waiting:
                self._waits_since, self._reconnected = None, False
                return
            if self._waits_since is None:
                self._waits_since = now
            if now - self._waits_since < self._patience_s:
                return
            first_time, self._reconnected, self._waits_since = not self._reconnected, True, now
        if first_time:
            log.error("%d messages wait and none was received for %g s: reconnecting", waiting, self._patience_s)
            self._reconnect()
        else:
            log.critical("%d messages wait and reconnecting did not help: ending this worker", waiting)
            self._give_up()

    def _begin(self, *, in_hand: bool) -> None:
        with self._lock:
            self._in_hand, self._waits_since, self._reconnected = in_hand, None, False

    def _loop(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.check(time.monotonic())
            except Exception:
                # The thread must survive a bug in one check.
                log.exception("the watchdog failed")


def register_tasks(
    celery: Celery,
    store: JobStore,
    supervisor: Supervisor,
    assistant: HelperProcess,
    stopping: threading.Event,
    watchdog: Watchdog,
) -> None:
    def run_job(job_id: str) -> None:
        with watchdog.delivery():
            try:
                outcome = supervisor.run(job_id)
                # The broker has deleted the message; a job that is still queued needs another one.
                if outcome is Outcome.QUEUED_AGAIN or (outcome is Outcome.NOT_TAKEN and stopping.is_set()):
                    send_again(store, celery, job_id)
            except (BrokerDown, JobNotFound) as problem:
                log.warning("job %s waits for the reconciler: %s", job_id, problem.detail)
            stopping.wait(supervisor.back_off_s)

    def assist(job_id: str) -> None:
        with watchdog.delivery():
            assistant.run(job_id)

    celery.task(name=TASK, ignore_result=True)(run_job)
    celery.task(name=ASSIST, ignore_result=True)(assist)


class WakingThreads(TaskPool):  # type: ignore[misc]
    """Thread pool that wakes Celery's event loop when a task ends; else it would sleep until a timer is due."""

    def on_apply(self, *args: Any, **options: Any) -> Any:
        result = super().on_apply(*args, **options)
        result.f.add_done_callback(lambda _future: _wake())
        return result


def _wake() -> None:
    hub = get_event_loop()
    if hub is not None:
        hub.call_soon(lambda: None)  # type: ignore[no-untyped-call]


log = logging.getLogger(__name__)

NOT_RECEIVING = 70
"""Exit code of a worker that receives no messages; the process that started it starts another."""


def run_worker(settings: Settings, command: Command = attempt_command) -> int:
    """Run queued jobs one at a time until SIGTERM or SIGINT; return an exit code, or raise ``ValueError``."""
    (device,) = find_devices(settings.devices)
    queues = queues_to_serve(settings, device)
    client = redis_client(settings)
    store = JobStore(client, settings.key_prefix, settings.idempotency_hours * 3600)
    celery = make_celery(settings)
    stopping = threading.Event()
    registry = WorkerRegistry(client, settings.key_prefix)

    def call_for_help(job: Job) -> None:
        if takes_assistants(job, settings):
            try:
                call_assistants(celery, registry, job, most=MAX_ASSISTANTS)
            except BrokerDown as problem:
                log.info("no workers are called to assist with job %s: %s", job.id, problem.detail)

    supervisor = Supervisor(store, settings, stopping, command, device, call_for_help)
    assistant = HelperProcess(store, settings, stopping, device, queues)
    worker = celery.Worker(
        queues=[queue.value for queue in queues],
        hostname=f"worker@{worker_name()}",
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    watchdog = Watchdog(
        store,
        settings,
        queues,
        reconnect=lambda: worker.hub.call_soon(_lose_the_connection),
        give_up=lambda: os._exit(NOT_RECEIVING),
    )
    register_tasks(celery, store, supervisor, assistant, stopping, watchdog)
    announcer = Heartbeat(
        registry,
        settings,
        name=worker_name(),
        device=device,
        queues=queues,
        job=lambda: supervisor.job or assistant.job,
        receiving=lambda: watchdog.receiving,
    )
    reconciler = Reconciler(store, celery, settings, registry)

    def on_shutting_down(**_: object) -> None:
        # Runs inside the signal handler: only a flag may be set here.
        stopping.set()

    worker_shutting_down.connect(on_shutting_down)
    # Celery's line for each message repeats the supervisor's.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    reconciler.start()
    announcer.start()
    warn_of_durability_risks(client)
    log.info("worker %s starts on %s, serves %s", worker_name(), device, ", ".join(queues))
    watchdog.start()
    try:
        worker.start()
    finally:
        watchdog.stop()
        reconciler.stop()
        announcer.stop()
        log.info("worker stopped")
    return int(worker.exitcode or 0)


def _lose_the_connection() -> None:
    # Celery's event loop takes the error for a broken connection and rebuilds everything that belongs to it.
    raise ConnectionError("the watchdog detected that no messages arrive")


def warn_of_durability_risks(client: redis.Redis) -> None:
    try:
        for risk in durability_risks(client):
            log.warning("the Redis server may lose jobs: %s", risk)
    except BrokerDown as problem:
        log.warning("%s", problem.detail)


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
