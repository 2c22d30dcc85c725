"""The worker process of one device: Celery with one thread for jobs, and the reconciler beside it.

It never imports torch: training runs in processes that it starts.
"""

import logging
import os
import threading

import redis
from celery.signals import worker_shutting_down  # type: ignore[import-untyped]

from worker.broker.celery_app import make_celery
from worker.broker.embedded import redis_client, weaknesses
from worker.errors import BrokerDown
from worker.jobs.duration_model import DurationModel
from worker.jobs.record import Job, Queue
from worker.jobs.store import JobStore
from worker.jobs.worker_registry import Announcer, Presence
from worker.log_setup import configure_logging
from worker.runtime.assist import MOST_ASSISTANTS, Assistant, call_assistants
from worker.runtime.devices import find_devices, part_name, queues_of
from worker.runtime.process import Command, attempt_command
from worker.runtime.reconciler import Reconciler
from worker.runtime.supervisor import Supervisor, worker_name
from worker.runtime.tasks import register_tasks
from worker.runtime.throughput import ThroughputMeter
from worker.runtime.watchdog import Watchdog
from worker.settings import Settings, load_settings

log = logging.getLogger(__name__)

NOT_RECEIVING = 70
"""Exit code of a worker that does not receive messages; whatever started it starts another."""


def run_worker(settings: Settings, command: Command = attempt_command) -> int:
    """Works on jobs of one device until TERM or INT; a running trainer then writes its checkpoint and its job is
    queued again. Raises `ValueError` where the settings name several devices or queues that this one cannot serve.
    """
    (device,) = find_devices(settings.devices)
    queues = queues_to_serve(settings, device)
    client = redis_client(settings)
    store = JobStore(client, settings.key_prefix, settings.idempotency_hours * 3600)
    celery = make_celery(settings)
    stopping = threading.Event()
    presence = Presence(client, settings.key_prefix)

    def call_for_help(job: Job) -> None:
        if job.type == "score":
            try:
                call_assistants(celery, presence, job, most=MOST_ASSISTANTS)
            except BrokerDown as problem:
                log.info("nobody is called to help with job %s: %s", job.id, problem.detail)

    durations = DurationModel(client, settings.key_prefix)
    supervisor = Supervisor(store, settings, stopping, command, device, durations, call_for_help)
    assistant = Assistant(store, settings, stopping, device, queues)
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
    announcer = Announcer(
        presence,
        settings,
        name=worker_name(),
        device=device,
        queues=queues,
        job=lambda: supervisor.job or assistant.job,
        receiving=lambda: watchdog.receiving,
    )
    reconciler = Reconciler(store, celery, settings, presence)
    meter = ThroughputMeter(settings, device, busy=lambda: (supervisor.job or assistant.job) is not None)

    def on_shutting_down(**_: object) -> None:
        # Runs inside the signal handler: only a flag may be set here.
        stopping.set()

    worker_shutting_down.connect(on_shutting_down)
    # A line a message adds nothing to the supervisor's own.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    reconciler.start()
    announcer.start()
    warn_of_weaknesses(client)
    log.info("worker %s starts on %s, serves %s", worker_name(), device, ", ".join(queues))
    watchdog.start()
    meter.start()
    try:
        worker.start()
    finally:
        meter.stop()
        watchdog.stop()
        reconciler.stop()
        announcer.stop()
        log.info("worker stopped")
    return int(worker.exitcode or 0)


def _lose_the_connection() -> None:
    # Celery's event loop takes it for a connection that broke, and makes everything that belongs to it anew.
    raise ConnectionError("the watchdog found that no messages are received")


def warn_of_weaknesses(client: redis.Redis) -> None:
    """Logs what an external server's settings put at risk."""
    try:
        for risk in weaknesses(client):
            log.warning("the Redis server is not safe for jobs: %s", risk)
    except BrokerDown as problem:
        log.warning("%s", problem.detail)


def queues_to_serve(settings: Settings, device: str) -> list[Queue]:
    """The queues of a device, or those of them that the settings name; raises `ValueError` where none is left."""
    able = queues_of(device)
    found = [queue for queue in able if queue in (settings.queues or able)]
    if not found:
        raise ValueError(f"{device} can serve {', '.join(able)}, not {', '.join(settings.queues)}")
    return found


def main() -> int:
    """Entry point of `python -m worker.runtime.main`, the worker of one device."""
    settings = load_settings()
    configure_logging(settings, part_name(settings.devices[0]))
    return run_worker(settings)


if __name__ == "__main__":
    raise SystemExit(main())
