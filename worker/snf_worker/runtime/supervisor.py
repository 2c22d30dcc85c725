"""The supervisor, which takes a queued job, runs it in a child process, and records the outcome."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from structlog.contextvars import bound_contextvars

from snf_models.disk import folder_problem, make_folder, require_room, storage_error, usable_bytes
from snf_models.errors import StorageFull, StorageReadOnly
from snf_models.locations.location import Location
from snf_worker.errors import BrokerDown, JobNotFound, StaleAttempt
from snf_worker.jobs.events import AttemptSummary, EventReader
from snf_worker.jobs.record import ACTIVE, Job, Queue, Status
from snf_worker.jobs.runs import RunStore, record_failure
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import ROOM_BYTES
from snf_worker.runtime.machine import CPU, attempt_memory, kind_of, variables, worker_name
from snf_worker.runtime.process import (
    AttemptMonitor,
    AttemptProcess,
    Command,
    ExitCode,
    StopReason,
    attempt_command,
    explain_exit,
    helper_command,
)
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

RETRY_S = 3600.0
"""Time in seconds after which a job that met a full disk is taken again although there is no more room."""
BACK_OFF_S = 30.0
"""Shortest time in seconds from a second full disk to the next attempt; it doubles each time, up to ``RETRY_S``."""
_MOST_DOUBLINGS = 7
_REPORTED = {"progress", "metrics", "error", "result", "caller", "worker"}
"""Fields of a record that an attempt does not need, because it makes them."""
_CHECK_S = 1.0


class _Failure(NamedTuple):
    """A full disk that a job met: how often it has met one, the room in bytes to wait for on a disk, and the time."""

    times: int
    needed: dict[Path, int]
    at: float

    def waits(self) -> bool:
        passed_s = time.monotonic() - self.at
        back_off_s = min(RETRY_S, BACK_OFF_S * (2.0 ** min(self.times - 1, _MOST_DOUBLINGS) - 1))
        more = any(usable_bytes(folder) >= needed for folder, needed in self.needed.items())
        return passed_s < RETRY_S and not (more and passed_s >= back_off_s)


def room_problem(folder: Path) -> str | None:
    """Return why jobs cannot write to a folder, such as a full disk, or None."""
    problem = folder_problem(folder, writes=True)
    if problem is not None:
        return problem
    try:
        require_room(folder, ROOM_BYTES)
    except StorageFull as full:
        return full.detail
    return None


class DiskSpaceGuard:
    """Monitor of the disk of all jobs, and memory of this process of the jobs that met a full disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failures: dict[str, _Failure] = {}

    def wait(self, stopping: threading.Event) -> None:
        """Wait until the disk has room for a job and accepts writes, or the worker stops."""
        waiting = False
        while not stopping.is_set():
            problem = room_problem(self._folder)
            if problem is None:
                break
            if not waiting:
                log.error("no job is taken: %s", problem)
            waiting = True
            stopping.wait(_CHECK_S)
        if waiting and not stopping.is_set():
            log.info("the disk takes writes again: jobs go on")

    def note_failure(self, job_id: str, output: Path | None = None) -> None:
        """Record that a job met a full disk, its own or that of ``output``, and the room to wait for."""
        now = time.monotonic()
        earlier = self._failures.get(job_id)
        self._failures = {job: failure for job, failure in self._failures.items() if now - failure.at < RETRY_S}
        times = 1 if earlier is None else earlier.times + 1
        folders = [self._folder] if output is None else [self._folder, output]
        needed = {folder: usable_bytes(folder) + ROOM_BYTES for folder in folders}
        self._failures[job_id] = _Failure(times, needed, now)

    def waiting(self) -> list[str]:
        """Return the jobs that met a full disk and have no more room after a back-off, for an hour at most."""
        return [job_id for job_id, failure in self._failures.items() if failure.waits()]

    def error(self, problem: StorageFull | StorageReadOnly | None = None) -> dict[str, str]:
        """Return the error to record for a job, by default as the folder is now."""
        read_only = folder_problem(self._folder, writes=True) is not None
        kind = type(problem) if problem else (StorageReadOnly if read_only else StorageFull)
        detail = "the disk is full or takes no writes; the checkpoints of the job are kept"
        return {"type": kind.slug, "title": kind.title, "detail": detail}


_MAX_BACK_OFF_S = 60.0
_MAX_DOUBLINGS = 6
_OUTAGE_S = 0.5
_STOPPING_PATIENCE_S = 5.0

T = TypeVar("T")


class Outcome(StrEnum):
    """Outcome of an attempt: the new status of its job, or why there is none."""

    NOT_TAKEN = "not taken"  # no job waits, or only some that wait for more room
    LOST = "lost"  # the lease went to another attempt, or the end could not be recorded
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    QUEUED_AGAIN = "queued"


class Supervisor:
    """Runner of queued jobs on one device, one at a time."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        stopping: threading.Event,
        command: Command = attempt_command,
        device: str = CPU,
    ) -> None:
        self._store = store
        self._settings = settings
        self._stopping = stopping
        self._command = command
        self._device = device
        self._room = DiskSpaceGuard(settings.jobs_dir)
        self.job: str | None = None
        self._deaths = 0  # attempts in a row that crashed without a new checkpoint

    @property
    def back_off_s(self) -> float:
        """Seconds to wait before the next job after crashes in a row: 1, 2, 4, ... up to 60."""
        return min(_MAX_BACK_OFF_S, 2.0 ** min(self._deaths - 1, _MAX_DOUBLINGS)) if self._deaths else 0.0

    def run(self, queue: Queue) -> Outcome:
        """Run one attempt at the first job of a queue, and record its outcome.

        Raise ``BrokerDown`` if the worker stops in an outage before the attempt.
        """
        self._room.wait(self._stopping)
        if self._stopping.is_set():
            return Outcome.NOT_TAKEN
        name, lease_s, left = worker_name(), self._settings.lease_seconds, self._room.waiting()
        taken = self._retry_in_outage(lambda: self._store.take(queue, name, lease_s, left))
        if taken is None:
            return Outcome.NOT_TAKEN
        job_id, attempt = taken
        self.job = job_id
        try:
            with bound_contextvars(job=job_id, attempt=attempt):
                job = self._retry_in_outage(lambda: self._store.get(job_id))
                # Confirms the attempt, which counts as failed from now on if it ends without progress.
                self._retry_in_outage(lambda: self._store.renew(job_id, attempt, lease_s))
                return self._attempt(job, attempt)
        except StaleAttempt as problem:
            log.warning("the attempt lost its lease before it began: %s", problem.detail)
            return Outcome.LOST
        finally:
            self.job = None

    def _attempt(self, job: Job, attempt: int) -> Outcome:
        summary = AttemptSummary(job.progress, job.metrics, job.checkpoint_step)
        log.info("job %s: attempt %d starts", job.id, attempt)
        try:
            folder = self._prepare(job, attempt)
            reader = EventReader(folder, attempt)
            environment = attempt_environment(self._settings, self._device)
            process = AttemptProcess(self._command(folder, job.type), folder, environment)
        except OSError as error:
            problem = storage_error(error)
            if problem is not None:
                summary.error = self._room.error(problem)
                return self._settle(job, attempt, summary, ExitCode.NO_ROOM)
            return self._settle(job, attempt, summary, f"the process did not start: {error}")
        try:
            monitor = AttemptMonitor(self._store, self._settings, self._stopping, job.id, attempt)
            code = monitor.until_exit(process, reader, summary)
        finally:
            process.close()
        if monitor.stalled:
            why = f"the process reported no progress for {self._settings.stall_seconds:g} s and was killed"
            summary.error = {"type": "trainer-stalled", "title": "The trainer hung", "detail": why}
        if process.stopping and code < 0:
            code = ExitCode.PREEMPTED  # by our own SIGTERM or SIGKILL: no fault of the job
        if code == ExitCode.STALE:
            # Another process held the folder. If the lease is lost, too, the store refuses the record.
            code = ExitCode.PREEMPTED
        if monitor.stale:
            log.warning("job %s: attempt %d lost its lease", job.id, attempt)
            return Outcome.LOST
        return self._settle(job, attempt, summary, code)

    def _prepare(self, job: Job, attempt: int) -> Path:
        folder = self._settings.jobs_dir / job.id
        make_folder(folder)
        record = job.model_copy(update={"attempts": attempt, "device": kind_of(self._device)})
        temporary = folder / f"job.json.{attempt}"
        temporary.write_text(record.model_dump_json(indent=1, exclude=_REPORTED), encoding="utf-8")
        temporary.replace(folder / "job.json")
        return folder

    def _settle(self, job: Job, attempt: int, summary: AttemptSummary, end: int | str) -> Outcome:
        """Decide once how an attempt ended and record it, with retries in an outage."""
        try:
            status, changes = self._judge(job, attempt, summary, end)
            status = self._retry_in_outage(lambda: self._leave(job.id, attempt, status, changes))
        except StaleAttempt as problem:
            log.warning("the end of the attempt is not recorded: %s", problem.detail)
            return Outcome.LOST
        except BrokerDown as problem:
            # Nothing is lost: the lease expires, and the next attempt continues from checkpoint and model.
            log.error("job %s: could not record the end of attempt %d: %s", job.id, attempt, problem)
            return Outcome.LOST
        log.info("job %s is %s", job.id, status)
        return Outcome(status.value)

    def _judge(self, job: Job, attempt: int, summary: AttemptSummary, end: int | str) -> tuple[Status, dict[str, Any]]:
        """Return the new status of the job, ``queued`` if it is not over, and the fields to record."""
        changes = summary.changes()
        if end == ExitCode.DONE and summary.result is not None:
            self._deaths = 0
            # Counts of a scoring name the images that were not judged; other results have none.
            status = Status.PARTIAL if summary.result.get("errors") else Status.SUCCEEDED
            return status, {**changes, "result": summary.result, "error": None}
        if end == ExitCode.PREEMPTED:
            log.info("job %s: attempt %d was preempted", job.id, attempt)
            return Status.QUEUED, changes
        if end == ExitCode.CANCELLED or self._retry_in_outage(lambda: self._store.get(job.id)).cancel_requested:
            return Status.CANCELLED, changes
        why = end if isinstance(end, str) else explain_exit(end)
        if end == ExitCode.DONE:
            why = "the process ended without a result"
        if end == ExitCode.NO_ROOM:
            log.warning("job %s: attempt %d met a disk that is full or takes no writes", job.id, attempt)
            output = job.parameters.get("output")
            self._room.note_failure(job.id, Location(output).local_path if output else None)
            return Status.QUEUED, {**changes, "error": summary.error or self._room.error()}
        error = summary.error or _death(end, why)
        if end == ExitCode.REFUSED:
            log.error("job %s: %s", job.id, error["detail"])
            return Status.FAILED, {**changes, "error": error}
        without_progress = 0 if summary.new_checkpoint else job.attempts_without_progress + 1
        self._deaths = 0 if summary.new_checkpoint else self._deaths + 1
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
        if status is Status.FAILED and record_failure(
            RunStore(self._settings.run_records_dir), job_id, changes["error"]
        ):
            self._store.recorded(job_id)
        return status

    def _retry_in_outage(self, call: Callable[[], T]) -> T:
        """Return the result of a call of the store, repeated while the broker is down and the worker does not stop."""
        deadline: float | None = None
        while True:
            try:
                return call()
            except BrokerDown:
                if self._stopping.is_set() and deadline is None:
                    deadline = time.monotonic() + _STOPPING_PATIENCE_S
                if deadline is not None and time.monotonic() > deadline:
                    raise
                time.sleep(_OUTAGE_S)


def attempt_environment(settings: Settings, device: str) -> dict[str, str]:
    """Return an attempt's variables: the settings without keys, the visible GPU, memory and threads."""
    environment = settings.environment() | variables(device)
    memory = attempt_memory(settings)
    if memory is not None:
        environment["SNF_TRAIN_MEMORY_BYTES"] = str(memory)
    if settings.train_threads is not None:
        environment["OMP_NUM_THREADS"] = str(settings.train_threads)
    return environment


def _death(end: int | str, why: str) -> dict[str, str]:
    if end == -signal.SIGKILL:
        return {"type": "out-of-memory", "title": "Killed, likely out of memory", "detail": why}
    return {"type": "trainer-died", "title": "The trainer died", "detail": why}


_TICK_S = 0.25
_LOOK_S = 1.0


def takes_helpers(job: Job, settings: Settings) -> bool:
    on_ray = settings.ray_address is not None and job.parameters.get("output") is not None
    return job.type == "score" and not on_ray


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
