"""The reconciler: a thread that repairs jobs after crashes of workers and deletes old jobs."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery  # type: ignore[import-untyped]

from snf_worker.broker.celery_app import queue_keys
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import Queue, Status
from snf_worker.jobs.retention import clear_removed, sweep_old_jobs
from snf_worker.jobs.runs import RunStore, record_failure
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import send_again
from snf_worker.jobs.worker_registry import WorkerRegistry
from snf_worker.runtime.helper import call_assistants
from snf_worker.settings import Settings


class ClockWatch:
    """Detector of jumps of the Redis server's clock over ``tolerance_s`` against this process's monotonic clock."""

    def __init__(self, tolerance_s: float) -> None:
        self._tolerance_s = tolerance_s
        self._offset_s: float | None = None

    def jump(self, server_s: float, monotonic_s: float) -> float:
        """Return the seconds by which the server's clock jumped since the last call, negative if set back, or 0."""
        offset_s = server_s - monotonic_s
        before_s, self._offset_s = self._offset_s, offset_s
        if before_s is None or abs(offset_s - before_s) <= self._tolerance_s:
            return 0.0
        return offset_s - before_s


log = logging.getLogger(__name__)

RETENTION_PAUSE_S = 3600.0
"""Time in seconds without deletion of old jobs after a start or a jump of the clock, in which it can be set right."""


class Reconciler:
    """Thread that sweeps the job store, in one worker at a time, and not after a jump of the server's clock."""

    def __init__(self, store: JobStore, celery: Celery, settings: Settings, registry: WorkerRegistry) -> None:
        self._store = store
        self._registry = registry
        self._celery = celery
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)
        self._leases_quiet_until = 0.0
        self._retention_paused_until = 0.0
        self._clock = ClockWatch(settings.heartbeat_seconds)

    def start(self) -> None:
        self._let_leases_rest(0)
        self._pause_retention()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its current check of the jobs; wait at most 10 s for its end."""
        self._stop.set()
        self._thread.join(timeout=10)

    def sweep(self) -> int:
        """Repair jobs of crashed workers and delete old jobs; return the number of changed jobs."""
        if self._clock_jumped():
            return 0
        with self._store.lock("reconciler", life_s=max(30.0, 3 * self._settings.reconcile_seconds)) as mine:
            if not mine:
                return 0
            corrected = self._store.cap_times()
            if corrected:
                log.warning("%d times in the job store were in the future and are corrected", corrected)
            moved = self._lost_leases() + self._lost_messages()
            self._record_failures()
            self._call_assistants()
            clear_removed(self._store, self._settings)
            if time.monotonic() < self._retention_paused_until:
                return moved
            return moved + sweep_old_jobs(self._store, self._settings)

    def _clock_jumped(self) -> bool:
        jump_s = self._clock.jump(self._store.clock_ms() / 1000, time.monotonic())
        if not jump_s:
            return False
        log.warning(
            "the clock of the job store jumped by %.1f s; workers get time to renew their leases, and no old jobs are "
            "deleted for %g s",
            jump_s,
            RETENTION_PAUSE_S,
        )
        self._let_leases_rest(0)
        self._pause_retention()
        return True

    def _lost_leases(self) -> int:
        if time.monotonic() < self._leases_quiet_until:
            return 0
        moved = 0
        for job_id in self._store.expired_leases():
            with _apart(job_id):
                verdict = self._store.expire(job_id, self._settings.max_attempts_without_progress)
                if verdict == "kept":
                    continue
                moved += 1
                log.warning("job %s: the lease expired; the job is %s now", job_id, verdict)
                if verdict == "queued":
                    send_again(self._store, self._celery, job_id)
        return moved

    def _lost_messages(self) -> int:
        sent = 0
        for queue in Queue:
            for key, first in zip(queue_keys(self._settings, queue), (True, False), strict=True):
                empty = self._store.lines.message_count([key]) == 0
                for job_id in self._store.lines.lost_messages(
                    queue, self._settings.dispatch_seconds, first=first, line_is_empty=empty
                ):
                    with _apart(job_id):
                        if send_again(self._store, self._celery, job_id):
                            log.warning("job %s: no worker took the job at its last message; it is sent again", job_id)
                            sent += 1
        return sent

    def _record_failures(self) -> None:
        # Of jobs whose worker vanished, and of those that a worker could not record itself after it had failed them.
        runs = RunStore(self._settings.run_records_dir)
        for job_id in self._store.unrecorded():
            with _apart(job_id):
                error = self._store.get(job_id).error
                if error is None or record_failure(runs, job_id, error):
                    self._store.recorded(job_id)

    def _call_assistants(self) -> None:
        # Workers may have started, or become idle, since the bulk job began.
        for job in self._store.list(status=Status.RUNNING, type="score").jobs:
            free = self._store.shards(job.id).free()
            if free:
                call_assistants(self._celery, self._registry, job, most=free)

    def _let_leases_rest(self, seconds: float) -> None:
        # Workers cannot renew leases in an outage; after it they get time for two heartbeats.
        self._leases_quiet_until = time.monotonic() + seconds + 2 * self._settings.heartbeat_seconds

    def _pause_retention(self) -> None:
        self._retention_paused_until = time.monotonic() + RETENTION_PAUSE_S

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.sweep()
            except BrokerDown as problem:
                log.warning("sweep skipped: %s", problem.detail)
                self._let_leases_rest(self._settings.reconcile_seconds)
            except Exception:
                # The thread must survive a bug in one sweep, or the jobs of later crashes would hang.
                log.exception("sweep failed")
            self._stop.wait(self._settings.reconcile_seconds)


@contextmanager
def _apart(job_id: str) -> Iterator[None]:
    """Log an error with one job: a record that cannot be read must not stop the sweep."""
    try:
        yield
    except BrokerDown:
        raise
    except Exception:
        log.exception("job %s is skipped in this sweep", job_id)
