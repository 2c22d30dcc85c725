import logging
import threading
from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from celery.concurrency.thread import TaskPool  # type: ignore[import-untyped]
from kombu.asynchronous import get_event_loop

from snf_worker.broker.celery_app import ASSIST, TASK
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import send_again
from snf_worker.runtime.assist import Assistant
from snf_worker.runtime.reconnect_watchdog import Watchdog
from snf_worker.runtime.supervisor import Outcome, Supervisor

log = logging.getLogger(__name__)


def register_tasks(
    celery: Celery,
    store: JobStore,
    supervisor: Supervisor,
    assistant: Assistant,
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
