"""The worker process of one device. It never imports PyTorch: attempts run in processes that it starts."""

import logging
import os
import threading

import redis
from celery.signals import worker_shutting_down  # type: ignore[import-untyped]

from snf_worker.broker.celery_app import make_celery
from snf_worker.broker.connection import durability_risks, redis_client
from snf_worker.broker.runtime_folder import runtime_folder_in_use
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import Job
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.worker_registry import WorkerRegistry
from snf_worker.log_setup import configure_logging
from snf_worker.queues import Queue
from snf_worker.runtime.announcer import Announcer
from snf_worker.runtime.assist import MAX_ASSISTANTS, Assistant, call_assistants, takes_assistants
from snf_worker.runtime.devices import find_devices, process_name, queues_of
from snf_worker.runtime.process import Command, attempt_command
from snf_worker.runtime.reconciler import Reconciler
from snf_worker.runtime.reconnect_watchdog import Watchdog
from snf_worker.runtime.supervisor import Supervisor
from snf_worker.runtime.tasks import register_tasks
from snf_worker.runtime.worker_name import worker_name
from snf_worker.settings import Settings, load_settings

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
