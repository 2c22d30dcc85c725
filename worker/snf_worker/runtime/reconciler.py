"""The reconciler repairs jobs after crashes of workers, and deletes the records and files of old jobs."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from celery import Celery  # type: ignore[import-untyped]

from snf_worker.errors import BrokerDown, JobInUse, JobNotFound
from snf_worker.jobs.record import Queue, Status
from snf_worker.jobs.runs import RunStore, record_failure
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import queue_key, wake
from snf_worker.process_setup import PeriodicThread
from snf_worker.runtime.machine import WorkerRegistry, WorkerState
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

RETENTION_PAUSE_S = 3600.0
"""Time in seconds without deletion of old jobs after a start or a jump of the clock, in which it can be set right."""
_MAX_REMOVED, _MAX_MESSAGES = 50, 500  # most jobs that one sweep removes, and most messages that it sends to a queue


@dataclass(eq=False)
class Reconciler:
    """Thread that sweeps the job store, in one worker at a time, and not after a jump of the server's clock."""

    store: JobStore
    celery: Celery
    settings: Settings
    registry: WorkerRegistry
    _leases_quiet_until: float = 0.0
    _retention_paused_until: float = 0.0
    _clock_offset_s: float | None = None

    def __post_init__(self) -> None:
        self._thread = PeriodicThread("reconciler", self.settings.reconcile_seconds, self._sweep_unless_down)

    def start(self) -> None:
        self._rest()
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def sweep(self) -> int:
        """Repair jobs of crashed workers and delete old jobs; return how many were changed or removed."""
        jump_s = self._clock_jump()
        if abs(jump_s) > self.settings.heartbeat_seconds:
            log.warning(
                "the clock of the job store jumped by %.1f s; workers get time to renew their leases, and no old jobs "
                "are deleted for %g s",
                jump_s,
                RETENTION_PAUSE_S,
            )
            self._rest()
            return 0
        with self.store.lock("reconciler", life_s=max(30.0, 3 * self.settings.reconcile_seconds)) as mine:
            if not mine:
                return 0
            corrected = self.store.cap_times()
            if corrected:
                log.warning("%d times in the job store were in the future and are corrected", corrected)
            changes = self._expire_leases()
            self._send_lost_messages()
            self._record_failures()
            self._wake_helpers()
            for job_id in self.store.removed():
                _remove_files(self.store, self.settings, job_id)
            if time.monotonic() < self._retention_paused_until:
                return changes
            return changes + sweep_old_jobs(self.store, self.settings)

    def _clock_jump(self) -> float:
        """Return the seconds by which the server's clock jumped since the last call against that of this process."""
        offset_s, before_s = self.store.clock_ms() / 1000 - time.monotonic(), self._clock_offset_s
        self._clock_offset_s = offset_s
        return 0.0 if before_s is None else offset_s - before_s

    def _expire_leases(self) -> int:
        if time.monotonic() < self._leases_quiet_until:
            return 0
        moved = 0
        for job_id in self.store.expired_leases():
            with _apart(job_id):
                verdict = self.store.expire(job_id, self.settings.max_attempts_without_progress)
                if verdict == "kept":
                    continue
                moved += 1
                log.warning("job %s: the lease expired; the job is %s now", job_id, verdict)
        return moved

    def _send_lost_messages(self) -> None:
        # A message more than there are waiting jobs, as for one that is just taken, does no harm.
        for queue in Queue:
            lost = self.store.waiting(queue) - self.store.message_count([queue_key(self.settings, queue)])
            for _ in range(min(lost, _MAX_MESSAGES)):
                wake(self.celery, queue)

    def _record_failures(self) -> None:
        # Of jobs whose worker vanished, and of those that a worker could not record itself after it had failed them.
        runs = RunStore(self.settings.run_records_dir)
        for job_id in self.store.unrecorded():
            with _apart(job_id):
                error = self.store.get(job_id).error
                if error is None or record_failure(runs, job_id, error):
                    self.store.recorded(job_id)

    def _wake_helpers(self) -> None:
        # Workers may have started, or become idle, since the bulk job began.
        for job in self.store.list(status=Status.RUNNING, type="score").jobs:
            free = self.store.shards(job.id).free()
            if free:
                idle = [info for info in self.registry.workers() if info.state is WorkerState.IDLE]
                for _ in [info for info in idle if Queue.SCORE in info.queues][:free]:
                    wake(self.celery, Queue.SCORE)

    def _rest(self) -> None:
        """Expire no lease before workers had time for two heartbeats, and remove no old job for an hour."""
        self._leases_quiet_until = time.monotonic() + 2 * self.settings.heartbeat_seconds
        self._retention_paused_until = time.monotonic() + RETENTION_PAUSE_S

    def _sweep_unless_down(self) -> None:
        try:
            self.sweep()
        except BrokerDown as problem:
            log.warning("sweep skipped: %s", problem.detail)
            # Workers cannot renew leases in an outage.
            quiet_s = self.settings.reconcile_seconds + 2 * self.settings.heartbeat_seconds
            self._leases_quiet_until = time.monotonic() + quiet_s


@contextmanager
def _apart(job_id: str) -> Iterator[None]:
    """Log an error with one job: a record that cannot be read must not stop the sweep."""
    try:
        yield
    except BrokerDown:
        raise
    except Exception:
        log.exception("job %s is skipped in this sweep", job_id)


def remove_job(store: JobStore, settings: Settings, job_id: str) -> None:
    """Delete an ended job's record, then its files; a later sweep deletes files that cannot be deleted now."""
    store.remove(job_id)
    _remove_files(store, settings, job_id)


def sweep_old_jobs(store: JobStore, settings: Settings) -> int:
    """Delete at most 50 jobs that ended over ``retention_days`` ago and are not in use; return their number."""
    removed = 0
    for job_id in store.finished_before(settings.retention_days * 24 * 3600, limit=_MAX_REMOVED):
        try:
            store.remove(job_id, because_old=True)
        except (JobNotFound, JobInUse) as problem:
            log.info("job %s is not removed: %s", job_id, problem.detail)
            continue
        _remove_files(store, settings, job_id)
        removed += 1
        log.info("job %s ended more than %g days ago and was removed", job_id, settings.retention_days)
    return removed


def _remove_files(store: JobStore, settings: Settings, job_id: str) -> None:
    """Delete the files of a removed job. Two calls at once do no harm."""
    folder = settings.jobs_dir / job_id
    try:
        # Renamed first: no reader finds half of the files.
        with suppress(FileNotFoundError):
            folder.rename(folder.with_name(f".{job_id}.{uuid4().hex}.removed"))
        for removed in folder.parent.glob(f".{job_id}.*"):
            with suppress(FileNotFoundError):  # another call removes it
                shutil.rmtree(removed)
    except OSError as error:
        log.warning("the files of the removed job %s cannot be deleted yet: %s", job_id, error)
        return
    store.cleared(job_id)
