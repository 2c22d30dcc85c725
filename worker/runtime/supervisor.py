"""The supervisor of one attempt: takes the lease, runs the trainer, reports, and settles how it ended."""

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from structlog.contextvars import bound_contextvars

from worker.errors import BrokerDown, JobNotFound, StaleAttempt
from worker.jobs.duration_model import DurationModel
from worker.jobs.events import Digest, EventReader
from worker.jobs.record import Asked, Job, Status
from worker.jobs.store import JobStore
from worker.runtime.devices import CPU, kind_of, variables
from worker.runtime.process import Command, Exit, StopReason, TrainerProcess, attempt_command, explain_exit
from worker.settings import Settings

log = logging.getLogger(__name__)

_TICK_S = 0.25
_REPORT_S = 0.5
_LONGEST_REST_S = 60.0
_MOST_DOUBLINGS = 6
_OUTAGE_S = 0.5
_LAST_WORDS_S = 5.0

T = TypeVar("T")


class Outcome(StrEnum):
    """How a delivery of a job's id ended."""

    NOT_TAKEN = "not taken"  # a duplicate delivery, or a job that is over
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    QUEUED_AGAIN = "queued again"
    LOST = "lost"  # the lease went to another attempt, or the end could not be recorded


_OUTCOMES = {
    Status.SUCCEEDED: Outcome.SUCCEEDED,
    Status.FAILED: Outcome.FAILED,
    Status.CANCELLED: Outcome.CANCELLED,
    Status.PAUSED: Outcome.PAUSED,
    Status.QUEUED: Outcome.QUEUED_AGAIN,
}


def worker_name() -> str:
    """Name of this worker process in leases."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Supervisor:
    """Runs attempts of jobs, one at a time; `stopping` asks a running trainer to checkpoint and exit."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        stopping: threading.Event,
        command: Command = attempt_command,
        device: str = CPU,
        durations: DurationModel | None = None,
        on_start: Callable[[Job], None] = lambda _job: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._stopping = stopping
        self._command = command
        self._device = device
        self._durations = durations
        self._on_start = on_start
        self._in_hand: str | None = None
        self._deaths = 0  # in a row, of attempts that brought nothing, on this machine

    @property
    def rest_s(self) -> float:
        """Time to take no job for: where one attempt after the other dies it may be this machine, and others work."""
        return min(_LONGEST_REST_S, 2.0 ** min(self._deaths - 1, _MOST_DOUBLINGS)) if self._deaths else 0.0

    @property
    def job(self) -> str | None:
        """Id of the job in hand."""
        return self._in_hand

    def run(self, job_id: str) -> Outcome:
        """Run one attempt of a job to its end; raise `BrokerDown` where it had to stop in an outage, before a trainer.

        The lease is renewed once before the trainer starts: the job is not blamed for an attempt without one.
        """
        if self._stopping.is_set():
            return Outcome.NOT_TAKEN
        delivery, lease_s = secrets.token_hex(8), self._settings.lease_seconds
        attempt = self._patiently(lambda: self._store.take(job_id, worker_name(), lease_s, delivery))
        if attempt is None:
            log.info("job %s is not to be had: a duplicate delivery, or it is over", job_id)
            return Outcome.NOT_TAKEN
        self._in_hand = job_id
        try:
            with bound_contextvars(job=job_id, attempt=attempt):
                job = self._patiently(lambda: self._store.get(job_id))
                self._patiently(lambda: self._store.renew(job_id, attempt, lease_s))
                return self._attempt(job, attempt)
        except StaleAttempt as problem:
            log.warning("the attempt lost its lease before it began: %s", problem.detail)
            return Outcome.LOST
        finally:
            self._in_hand = None

    def _attempt(self, job: Job, attempt: int) -> Outcome:
        digest = Digest(job.progress, job.metrics, job.checkpoint_step)
        log.info("job %s: attempt %d starts", job.id, attempt)
        try:
            folder = self._prepare(job, attempt)
            reader = EventReader(folder, attempt)
            process = TrainerProcess(self._command(folder, job.type), folder, self._environment())
        except OSError as error:
            return self._settle(job, attempt, digest, f"the trainer did not start: {error}")
        try:
            self._on_start(job)
            watch = _Watch(self._store, self._settings, self._stopping, job.id, attempt)
            code = watch.until_exit(process, reader, digest)
        finally:
            process.close()
        if watch.stalled:
            why = f"it reported nothing for {self._settings.stall_seconds:g} s and was killed"
            digest.error = {"type": "trainer-stalled", "title": "The trainer hung", "detail": why}
        if process.stopping and code < 0:
            code = Exit.PREEMPTED  # by our own TERM or KILL, which says nothing about the job
        if code == Exit.STALE:
            code = Exit.PREEMPTED  # another process held the folder; where the lease is gone too, the store says so
        if watch.stale:
            log.warning("job %s: attempt %d lost its lease", job.id, attempt)
            return Outcome.LOST
        return self._settle(job, attempt, digest, code)

    def _prepare(self, job: Job, attempt: int) -> Path:
        folder = self._settings.jobs_dir / job.id
        folder.mkdir(parents=True, exist_ok=True)
        spec = job.model_dump(
            mode="json", include={"id", "type", "model", "dataset", "preset", "parameters", "promote", "retry_of"}
        )
        spec |= {"attempt": attempt, "device": kind_of(self._device)}
        temporary = folder / f"job.json.{attempt}"
        temporary.write_text(json.dumps(spec, indent=1), encoding="utf-8")
        temporary.replace(folder / "job.json")
        return folder

    def _environment(self) -> dict[str, str]:
        return attempt_environment(self._settings, self._device)

    def _settle(self, job: Job, attempt: int, digest: Digest, end: int | str) -> Outcome:
        """Decide how an attempt ended, once, and record it.

        No other job could be taken in an outage, and an end that is recorded is no lost lease.
        """
        try:
            status, changes = self._judge(job, attempt, digest, end)
            status = self._patiently(lambda: self._leave(job.id, attempt, status, changes))
        except StaleAttempt as problem:
            log.warning("the end of an attempt came too late: %s", problem.detail)
            return Outcome.LOST
        except BrokerDown as problem:
            # Nothing is lost: the lease runs out, and the next attempt finds checkpoint and model.
            log.error("job %s: could not record the end of attempt %d: %s", job.id, attempt, problem)
            return Outcome.LOST
        log.info("job %s is %s", job.id, status)
        if status is Status.SUCCEEDED:
            self._learn_duration(job.id)
        return _OUTCOMES[status]

    def _judge(self, job: Job, attempt: int, digest: Digest, end: int | str) -> tuple[Status, dict[str, Any]]:
        """Return the status that the job is to get, `queued` for one that is not over, and what else is recorded."""
        changes = digest.changes()
        if end == Exit.DONE and digest.result is not None:
            self._deaths = 0
            return Status.SUCCEEDED, {**changes, "result": digest.result, "error": None}
        if end == Exit.PREEMPTED:
            log.info("job %s: attempt %d was preempted", job.id, attempt)
            return Status.QUEUED, changes
        if end == Exit.CANCELLED or self._patiently(lambda: self._store.get(job.id)).cancel_requested:
            return Status.CANCELLED, changes
        why = end if isinstance(end, str) else explain_exit(end)
        if end == Exit.DONE:
            why = "it ended without a result"
        error = digest.error or _death(end, why)
        if end == Exit.REFUSED:
            log.error("job %s: %s", job.id, error["detail"])
            return Status.FAILED, {**changes, "error": error}
        without_progress = 0 if digest.new_checkpoint else job.attempts_without_progress + 1
        self._deaths = 0 if digest.new_checkpoint else self._deaths + 1
        log.warning("job %s: attempt %d died (%s); %d without progress", job.id, attempt, why, without_progress)
        over = without_progress >= self._settings.max_attempts_without_progress
        return (
            Status.FAILED if over else Status.QUEUED,
            {**changes, "error": error, "attempts_without_progress": without_progress},
        )

    def _leave(self, job_id: str, attempt: int, status: Status, changes: dict[str, Any]) -> Status:
        if status is Status.QUEUED:
            return self._store.put_back(job_id, attempt, changes)
        self._store.finish(job_id, attempt, status, changes)
        return status

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return what a call of the store returns, waiting while the broker is down unless this worker has to stop."""
        deadline: float | None = None
        while True:
            try:
                return call()
            except BrokerDown:
                if self._stopping.is_set() and deadline is None:
                    deadline = time.monotonic() + _LAST_WORDS_S
                if deadline is not None and time.monotonic() > deadline:
                    raise
                time.sleep(_OUTAGE_S)

    def _learn_duration(self, job_id: str) -> None:
        if self._durations is None:
            return
        try:
            self._durations.learn(self._store.get(job_id), kind_of(self._device))
        except (BrokerDown, JobNotFound) as problem:
            log.info("the duration of job %s is not learned: %s", job_id, problem.detail)


def attempt_environment(settings: Settings, device: str) -> dict[str, str]:
    """The variables of a process that works on a job with this device."""
    found = settings.environment() | variables(device)
    if settings.train_threads is not None:
        found["OMP_NUM_THREADS"] = str(settings.train_threads)
    return found


def _death(end: int | str, why: str) -> dict[str, str]:
    if end == -signal.SIGKILL:
        return {"type": "out-of-memory", "title": "Killed, likely out of memory", "detail": why}
    return {"type": "trainer-died", "title": "The trainer died", "detail": why}


class _Watch:
    """The loop beside a running trainer: heartbeat, progress, and reasons to stop it."""

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

    def until_exit(self, process: TrainerProcess, reader: EventReader, digest: Digest) -> int:
        """Watches until the trainer is gone; answers its exit code."""
        while True:
            code = process.wait(_TICK_S)
            for event in reader.read():
                digest.add(event)
                self._last_event = time.monotonic()
            if code is not None:
                return code
            asked = self._report(digest)
            if self.stale:
                # No time for a checkpoint: another attempt may be reading that folder.
                process.kill()
            elif process.stopping:
                continue
            elif time.monotonic() - self._last_event > self._settings.stall_seconds:
                self.stalled = True
                process.kill()
            elif asked is Asked.CANCEL:
                process.stop(StopReason.CANCEL, self._settings.stop_grace_seconds)
            elif asked is Asked.PAUSE or self._stopping.is_set():
                # The trainer does the same for both; the record decides whether the job is paused or queued again.
                process.stop(StopReason.PREEMPT, self._settings.stop_grace_seconds)

    def _report(self, digest: Digest) -> Asked:
        """Renews the lease and reports what is new, at most twice a second; answers what users ask of the job."""
        now = time.monotonic()
        due = now >= self._next_beat or digest.changed or self._settings.heartbeat_seconds <= _REPORT_S
        if self.stale or now < self._next_report or not due:
            return Asked.GO_ON
        self._next_report = now + _REPORT_S
        try:
            if digest.changed and not self._running:
                self._store.running(self._job_id, self._attempt)
                self._running = True
            asked = self._store.renew(self._job_id, self._attempt, self._settings.lease_seconds, digest.changes())
        except StaleAttempt:
            self.stale = True
            return Asked.GO_ON
        except BrokerDown as problem:
            # Nobody else can take the job either while the broker is down: the trainer goes on.
            if not self._outage:
                log.warning("job %s goes on without the broker: %s", self._job_id, problem.detail)
            self._outage = True
            self._last_event = now  # a trainer that waits for the broker has nothing to report
            return Asked.GO_ON
        if self._outage:
            log.info("job %s: the broker is back", self._job_id)
        self._outage = False
        # Renewing costs one small command, so users' wishes may be asked for every second.
        self._next_beat = now + min(1.0, self._settings.heartbeat_seconds)
        return asked
