"""The Celery tasks: one takes a job's id and runs an attempt of it, one helps with a bulk job."""

import logging
import threading

from celery import Celery  # type: ignore[import-untyped]
from celery.exceptions import Reject  # type: ignore[import-untyped]

from worker.assist import Assistant
from worker.celery_app import ASSIST, TASK
from worker.problems import BrokerDown, JobNotFound
from worker.store import JobStore
from worker.submit import dispatch
from worker.supervisor import Outcome, Supervisor

log = logging.getLogger(__name__)


def register_tasks(
    celery: Celery, store: JobStore, supervisor: Supervisor, assistant: Assistant, stopping: threading.Event
) -> None:
    """Gives the Celery application its tasks."""

    def run_job(job_id: str) -> None:
        if stopping.is_set():
            raise Reject("this worker is stopping", requeue=True)
        try:
            outcome = supervisor.run(job_id)
        except BrokerDown as problem:
            # The job stays queued; the reconciler sends it again once the broker is back.
            log.warning("job %s could not be taken: %s", job_id, problem.detail)
            return
        if outcome is Outcome.QUEUED_AGAIN:
            try:
                dispatch(celery, store.get(job_id), first=True)
            except (BrokerDown, JobNotFound) as problem:
                log.warning("job %s waits for the reconciler: %s", job_id, problem.detail)
        stopping.wait(supervisor.rest_s)

    def assist(job_id: str) -> None:
        assistant.run(job_id)

    celery.task(name=TASK, ignore_result=True)(run_job)
    celery.task(name=ASSIST, ignore_result=True)(assist)
