import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from celery import Celery  # type: ignore[import-untyped]

from snf_worker.broker.celery_app import wake
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import ACTIVE, Job, Queue, Status
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.worker_registry import WorkerRegistry, WorkerState
from snf_worker.runtime.process import AttemptProcess, ExitCode, StopReason, helper_command
from snf_worker.runtime.supervisor import attempt_environment, room_problem
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

_TICK_S = 0.25
_LOOK_S = 1.0


def takes_helpers(job: Job, settings: Settings) -> bool:
    on_ray = settings.ray_address is not None and job.parameters.get("output") is not None
    return job.type == "score" and not on_ray


def wake_helpers(celery: Celery, registry: WorkerRegistry, max_helpers: int) -> None:
    """Wake at most ``max_helpers`` idle workers, which help with bulk jobs where no job waits; raise ``BrokerDown``."""
    idle = [info for info in registry.workers() if info.state is WorkerState.IDLE and Queue.SCORE in info.queues]
    for _ in idle[:max_helpers]:
        wake(celery, Queue.SCORE)


class HelperProcess:
    """Starter of the process in which an idle worker helps with a bulk job; that process owns no part of the job."""

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
        self._useless: deque[str] = deque(maxlen=1000)  # jobs that this machine cannot score
        self.job: str | None = None

    def run(self) -> int | None:
        """Help with a bulk job until no images are free or a job waits; return an exit code, or None if not started."""
        for job in self._store.list(status=Status.RUNNING, type="score").jobs:
            if takes_helpers(job, self._settings) and self._store.shards(job.id).free():
                return self._help(job.id)
        return None

    def _help(self, job_id: str) -> int | None:
        folder = self._settings.jobs_dir / job_id
        if job_id in self._useless or self._must_stop(job_id) or not folder.is_dir():
            return None
        problem = room_problem(self._settings.jobs_dir)
        if problem is not None:
            log.info("not helping with job %s: %s", job_id, problem)
            return None
        log.info("helping with job %s", job_id)
        process = AttemptProcess(helper_command(folder), folder, attempt_environment(self._settings, self._device))
        self.job = job_id
        look_at = 0.0
        try:
            while (code := process.wait(_TICK_S)) is None:
                if process.stopping or (time.monotonic() < look_at and not self._stopping.is_set()):
                    continue
                look_at = time.monotonic() + _LOOK_S
                if self._must_stop(job_id):
                    process.stop(StopReason.PREEMPT, self._settings.stop_grace_seconds)
        finally:
            self.job = None
            process.close()
        log.info("helped with job %s (exit code %d)", job_id, code)
        if code not in (ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.NO_ROOM) and not process.stopping:
            self._useless.append(job_id)
        return code

    def _must_stop(self, job_id: str) -> bool:
        """Return whether the worker stops, the job has ended, or a job waits for this worker."""
        if self._stopping.is_set():
            return True
        try:
            return self._store.get(job_id).status not in ACTIVE or any(map(self._store.waiting, self._queues))
        except JobNotFound:
            return True
        except BrokerDown:
            return False  # unknown, and what is scored is not lost
