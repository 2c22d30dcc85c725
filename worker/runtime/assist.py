"""Help with a bulk job: workers that have nothing to do take shards of it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from celery import Celery  # type: ignore[import-untyped]
from kombu.exceptions import OperationalError

from worker.broker.celery_app import ASSIST, FIRST
from worker.errors import BrokerDown, JobNotFound
from worker.jobs.record import ACTIVE, Job
from worker.jobs.store import JobStore
from worker.jobs.worker_registry import WorkerRegistry, WorkerState
from worker.queues import Queue
from worker.runtime.process import AttemptProcess, ExitCode, StopReason, assistant_command
from worker.runtime.supervisor import attempt_environment
from worker.settings import Settings

log = logging.getLogger(__name__)

MAX_ASSISTANTS = 64
_TICK_S = 0.25
_LOOK_S = 1.0
_CALL_S = 60
"""Life of a call for help: a worker that was busy for longer is called again by the reconciler."""


def call_assistants(celery: Celery, registry: WorkerRegistry, job: Job, most: int) -> int:
    """Calls idle workers that serve the queue of bulk jobs, `most` at most; answers how many. Raises `BrokerDown`."""
    idle = [one for one in registry.workers() if one.state is WorkerState.IDLE and Queue.SCORE in one.queues]
    count = min(most, len(idle))
    for _ in range(count):
        try:
            celery.send_task(
                ASSIST, args=[job.id], queue=job.queue.value, priority=FIRST, expires=_CALL_S, ignore_result=True
            )
        except (OperationalError, OSError) as error:
            raise BrokerDown(f"the broker does not take messages: {error}") from error
    return count


class Assistant:
    """Runs a process that takes shards of a job until none is left; it owns nothing, so its end needs no record."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        stopping: threading.Event,
        device: str,
        queues: Sequence[Queue],
    ) -> None:
        self._store = store
        self._settings = settings
        self._stopping = stopping
        self._device = device
        self._queues = queues
        self._useless: deque[str] = deque(maxlen=1000)  # jobs that this machine cannot help with
        self.job: str | None = None

    def run(self, job_id: str) -> int | None:
        """Helps with a job until no shard is free or this worker has something else to do; answers the exit code."""
        folder = self._settings.jobs_dir / job_id
        if job_id in self._useless or self._wanted_elsewhere(job_id) or not folder.is_dir():
            return None
        log.info("helps with job %s", job_id)
        process = AttemptProcess(assistant_command(folder), folder, attempt_environment(self._settings, self._device))
        self.job = job_id
        look_at = 0.0
        try:
            while (code := process.wait(_TICK_S)) is None:
                if process.stopping or (time.monotonic() < look_at and not self._stopping.is_set()):
                    continue
                look_at = time.monotonic() + _LOOK_S
                if self._wanted_elsewhere(job_id):
                    process.stop(StopReason.PREEMPT, self._settings.stop_grace_seconds)
        finally:
            self.job = None
            process.close()
        log.info("helped with job %s (exit code %d)", job_id, code)
        if code not in (0, ExitCode.PREEMPTED) and not process.stopping:
            self._useless.append(job_id)
        return code

    def _wanted_elsewhere(self, job_id: str) -> bool:
        """Whether this worker stops, the job is in nobody's hand any more, or a job waits in a queue of this worker."""
        if self._stopping.is_set():
            return True
        try:
            return self._store.get(job_id).status not in ACTIVE or any(map(self._store.lines.length, self._queues))
        except JobNotFound:
            return True
        except BrokerDown:
            return False  # nobody can tell
