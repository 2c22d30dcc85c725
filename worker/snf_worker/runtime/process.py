import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, StrEnum
from pathlib import Path

from snf_client.schemas.base import JobType
from snf_worker.errors import BrokerDown, StaleAttempt
from snf_worker.jobs.events import AttemptSummary, EventReader
from snf_worker.jobs.record import RequestedAction
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.parent_death import ParentDeathPipe, child_environment
from snf_worker.settings import Settings

log = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """Exit codes of an attempt. Any other means that the process died, and the attempt is repeated."""

    DONE = 0
    REFUSED = 65  # another attempt would fail as well; the last `error` event names the cause
    NO_ROOM = 74  # the disk takes no writes, perhaps not even that of an `error` event
    PREEMPTED = 75
    CANCELLED = 76
    STALE = 77  # a newer attempt owns the job


class StopReason(StrEnum):
    """Reason for a request to stop: users cancelled the job, or a later attempt will continue it."""

    CANCEL = "c"
    PREEMPT = "p"


Command = Callable[[Path, JobType], list[str]]


def attempt_command(folder: Path, type: JobType) -> list[str]:
    work = type if type in ("train", "score") else f"model_jobs:{type}"
    return [sys.executable, "-m", "snf_worker.attempts.run_attempt", f"snf_worker.attempts.{work}", str(folder)]


class AttemptProcess:
    """A child process that runs one attempt in its own process group, with its output in ``trainer.log``."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        lifeline = ParentDeathPipe()
        with lifeline.passed(), (folder / "trainer.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(environment, lifeline.environment),
                cwd=Path(__file__).resolve().parents[2],
                pass_fds=[lifeline.fd],
                start_new_session=True,
            )
        self._lifeline = lifeline
        self._kill_at: float | None = None
        self.pid = self._process.pid

    @property
    def stopping(self) -> bool:
        return self._kill_at is not None

    def wait(self, timeout: float) -> int | None:
        """Return the exit code, negative for a signal, or None; kill the process after its grace period."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self.kill()
            return None

    def stop(self, reason: StopReason, grace_s: float) -> None:
        """Ask the process to write a checkpoint and exit; ``wait`` kills it after ``grace_s`` seconds."""
        if self._process.poll() is not None:
            return
        self._kill_at = time.monotonic() + grace_s
        self._lifeline.send(reason.value.encode())
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and its child processes at once (SIGKILL)."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill all remaining processes of the job's attempt (SIGKILL), and close the pipe to the child."""
        # Also after a regular end: no child of the process may outlive the attempt.
        with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._lifeline.close()


def helper_command(folder: Path) -> list[str]:
    return [*attempt_command(folder, "score"), "--assist"]


def explain_exit(code: int) -> str:
    """Return a phrase that explains why a job's process died; a negative code is a signal number."""
    if code == -signal.SIGKILL:
        return "killed, likely out of memory: a smaller batch_size or preset needs less"
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"ended with exit code {code}"


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
