"""The worker process: Celery with one thread for jobs, and the reconciler beside it.

It never imports torch: training runs in processes that it starts.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from celery.signals import worker_shutting_down  # type: ignore[import-untyped]

from worker.broker import redis_client
from worker.celery_app import make_celery
from worker.logs import configure_logging
from worker.process import trainer_command
from worker.reconciler import Reconciler
from worker.settings import Settings, load_settings
from worker.store import JobStore
from worker.supervisor import Supervisor, worker_name
from worker.tasks import register_tasks

log = logging.getLogger(__name__)


def run_worker(settings: Settings, command: Callable[[Path], list[str]] = trainer_command) -> int:
    """Works on jobs until TERM or INT; a running trainer then writes its checkpoint and its job is queued again."""
    store = JobStore(redis_client(settings), settings.key_prefix, settings.idempotency_hours * 3600)
    celery = make_celery(settings)
    stopping = threading.Event()
    register_tasks(celery, store, Supervisor(store, settings, stopping, command), stopping)
    reconciler = Reconciler(store, celery, settings)

    def on_shutting_down(**_: object) -> None:
        # Runs inside the signal handler: only a flag may be set here.
        stopping.set()

    worker_shutting_down.connect(on_shutting_down)
    # A line a message adds nothing to the supervisor's own.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    reconciler.start()
    log.info("worker %s starts", worker_name())
    worker = celery.Worker(
        hostname=f"worker@{worker_name()}",
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    try:
        worker.start()
    finally:
        reconciler.stop()
        log.info("worker stopped")
    return int(worker.exitcode or 0)


def main() -> int:
    """Entry point of `python -m worker.main` and `snf worker`."""
    settings = load_settings()
    configure_logging(settings, "worker")
    return run_worker(settings)


if __name__ == "__main__":
    raise SystemExit(main())
