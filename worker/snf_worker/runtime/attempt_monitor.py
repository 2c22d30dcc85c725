import logging
import threading
import time

from snf_worker.errors import BrokerDown, StaleAttempt
from snf_worker.jobs.event_log import AttemptSummary, EventReader
from snf_worker.jobs.record import RequestedAction
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.process import AttemptProcess, StopReason
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

_TICK_S = 0.25
_REPORT_S = 0.5


class AttemptMonitor:
    """Monitor of an attempt's process: it renews the lease, records progress, and stops the process."""

    def __init__(
        self, store: JobStore, settings: Settings, stopping: threading.Event, job_id: str, attempt: int
    ) -> None:
        self._store = store
        self._settings = settings
        self._stopping = stopping
        self._job_id = job_id
        self._attempt = attempt
        self._running = False
        self._outage = False
        self._next_report = 0.0
        self._next_beat = 0.0
        self._last_event = time.monotonic()
        self.stale = False
        self.stalled = False

    def until_exit(self, process: AttemptProcess, reader: EventReader, summary: AttemptSummary) -> int:
        """Return the exit code; the process is killed if it makes no progress or has lost its lease."""
        while True:
            code = process.wait(_TICK_S)
            for event in reader.read():
                summary.add(event)
                self._last_event = time.monotonic()
            if code is not None:
                return code
            asked = self._report(summary)
            if self.stale:
                # No time for a checkpoint: another attempt may be reading that folder.
                process.kill()
            elif process.stopping:
                continue
            elif time.monotonic() - self._last_event > self._settings.stall_seconds:
                self.stalled = True
                process.kill()
            elif asked is RequestedAction.CANCEL:
                process.stop(StopReason.CANCEL, self._settings.stop_grace_seconds)
            elif asked is RequestedAction.PAUSE or self._stopping.is_set():
                # The process does the same for both; the record decides whether the job is paused or queued again.
                process.stop(StopReason.PREEMPT, self._settings.stop_grace_seconds)

    def _report(self, summary: AttemptSummary) -> RequestedAction:
        """Renew the lease and record new events, at most twice a second; return what users ask of the job."""
        now = time.monotonic()
        due = now >= self._next_beat or summary.changed or self._settings.heartbeat_seconds <= _REPORT_S
        if self.stale or now < self._next_report or not due:
            return RequestedAction.GO_ON
        self._next_report = now + _REPORT_S
        try:
            if summary.changed and not self._running:
                self._store.running(self._job_id, self._attempt)
                self._running = True
            asked = self._store.renew(self._job_id, self._attempt, self._settings.lease_seconds, summary.changes())
        except StaleAttempt:
            self.stale = True
            return RequestedAction.GO_ON
        except BrokerDown as problem:
            # No other worker can take the job while the broker is down, so the process goes on.
            if not self._outage:
                log.warning("job %s goes on without the broker: %s", self._job_id, problem.detail)
            self._outage = True
            self._last_event = now  # a process that waits for the broker reports nothing
            return RequestedAction.GO_ON
        if self._outage:
            log.info("job %s: the broker is back", self._job_id)
        self._outage = False
        # A renewal is one small command: every second is often enough for users and cheap enough for Redis.
        self._next_beat = now + min(1.0, self._settings.heartbeat_seconds)
        return asked
