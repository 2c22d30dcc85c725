"""The supervisor, which takes a queued job, runs it in a child process, and records the outcome."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from structlog.contextvars import bound_contextvars

from snf_client.schemas.base import JobType
from snf_models.disk import folder_problem, make_folder, require_room, storage_error, usable_bytes
from snf_models.errors import StorageFull, StorageReadOnly
from snf_worker.errors import BrokerDown, JobNotFound, StaleAttempt
from snf_worker.jobs.events import AttemptSummary, EventReader
from snf_worker.jobs.record import ACTIVE, ExitCode, Job, Queue, RequestedAction, Status, StopReason
from snf_worker.jobs.runs import RunStore, record_failure
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import ROOM_BYTES
from snf_worker.process_setup import how_ended, start_child
from snf_worker.runtime.machine import CPU, attempt_memory, kind_of, variables, worker_name
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

RETRY_S = 3600.0  # time in seconds after which a job that met a full disk is taken again although there is no more room
BACK_OFF_S = 30.0
"""Shortest time in seconds from a second full disk to the next attempt; it doubles each time, up to ``RETRY_S``."""
_MOST_DOUBLINGS = 7
_REPORTED = {"progress", "metrics", "error", "result", "caller", "worker"}
"""Fields of a record that an attempt does not need, because it makes them."""
_CHECK_S, _LOOK_S = 1.0, 1.0
_TICK_S = 0.25
_REPORT_S, _RENEW_S = 0.5, 1.0
"""Pauses between two renewals of a lease, with new events and without. They are small commands."""
_MAX_BACK_OFF_S = 60.0
_MAX_DOUBLINGS = 6
_OUTAGE_S = 0.5
_STOPPING_PATIENCE_S = 5.0

T = TypeVar("T")
Command = Callable[[Path, JobType], list[str]]


def attempt_command(folder: Path, type: JobType) -> list[str]:
    work = type if type in ("train", "score") else f"model_jobs:{type}"
    return [sys.executable, "-m", "snf_worker.attempts.run_attempt", f"snf_worker.attempts.{work}", str(folder)]


def helper_command(folder: Path) -> list[str]:
    return [*attempt_command(folder, "score"), "--assist"]


class AttemptProcess:
    """A child process that runs one attempt in its own process group, with its output in ``trainer.log``."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._process, self._lifeline = start_child(command, folder / "trainer.log", environment)
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
        if self._process.poll() is None:
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
        with suppress(ProcessLookupError):  # the usual case: nothing is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._lifeline.close()


@dataclass(eq=False)
class AttemptMonitor:
    """Monitor of an attempt's process: it renews the lease, records progress, and stops the process."""

    store: JobStore
    settings: Settings
    stopping: threading.Event
    job_id: str
    attempt: int
    stale: bool = False
    stalled: bool = False
    _running: bool = False
    _outage: bool = False
    _renewed: float = 0.0
    _last_event: float = field(default_factory=time.monotonic)

    def until_exit(self, process: AttemptProcess, reader: EventReader, summary: AttemptSummary) -> int:
        """Return the exit code; the process is killed if it makes no progress or has lost its lease."""
        while True:
            code = process.wait(_TICK_S)
            for event in reader.read():
                summary.add(event)
                self._last_event = time.monotonic()
            if code is not None:
                return code
            asked = self._renew(summary)
            if self.stale:
                # No time for a checkpoint: another attempt may be reading that folder.
                process.kill()
            elif process.stopping:
                continue
            elif time.monotonic() - self._last_event > self.settings.stall_seconds:
                self.stalled = True
                process.kill()
            elif asked is RequestedAction.CANCEL:
                process.stop(StopReason.CANCEL, self.settings.stop_grace_seconds)
            elif asked is RequestedAction.PAUSE or self.stopping.is_set():
                # The process does the same for both; the record decides whether the job is paused or queued again.
                process.stop(StopReason.PREEMPT, self.settings.stop_grace_seconds)

    def _renew(self, summary: AttemptSummary) -> RequestedAction:
        """Renew the lease and record new events, if it is time; return what users ask of the job."""
        now = time.monotonic()
        pause = _REPORT_S if summary.changed else min(_RENEW_S, self.settings.heartbeat_seconds)
        if self.stale or now < self._renewed + pause:
            return RequestedAction.GO_ON
        self._renewed = now
        self._running = self._running or summary.changed
        changes = summary.changes() if self._running else {}
        try:
            asked = self.store.renew(self.job_id, self.attempt, self.settings.lease_seconds, changes)
        except StaleAttempt:
            self.stale = True
            return RequestedAction.GO_ON
        except BrokerDown as problem:
            # No other worker can take the job while the broker is down, so the process goes on.
            if not self._outage:
                log.warning("job %s goes on without the broker: %s", self.job_id, problem.detail)
            self._outage = True
            self._last_event = now  # a process that waits for the broker reports nothing
            return RequestedAction.GO_ON
        if self._outage:
            log.info("job %s: the broker is back", self.job_id)
        self._outage = False
        return asked


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
    try:
        if (problem := folder_problem(folder, writes=True)) is None:
            require_room(folder, ROOM_BYTES)
    except StorageFull as full:
        return full.detail
    return problem


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


@dataclass(eq=False)
class Supervisor:
    """Runner of queued jobs on one device, one at a time."""

    store: JobStore
    settings: Settings
    stopping: threading.Event
    command: Command = attempt_command
    device: str = CPU
    job: str | None = None
    _deaths: int = 0  # attempts in a row that crashed without a new checkpoint

    def __post_init__(self) -> None:
        self._room = DiskSpaceGuard(self.settings.jobs_dir)

    @property
    def back_off_s(self) -> float:
        """Seconds to wait before the next job after crashes in a row: 1, 2, 4, ... up to 60."""
        return min(_MAX_BACK_OFF_S, 2.0 ** min(self._deaths - 1, _MAX_DOUBLINGS)) if self._deaths else 0.0

    def run(self, queue: Queue) -> Outcome:
        """Run one attempt at the first job of a queue, and record its outcome.

        Raise ``BrokerDown`` if the worker stops in an outage before the attempt.
        """
        self._room.wait(self.stopping)
        if self.stopping.is_set():
            return Outcome.NOT_TAKEN
        name, lease_s, left = worker_name(), self.settings.lease_seconds, self._room.waiting()
        taken = self._retry_in_outage(lambda: self.store.take(queue, name, lease_s, left))
        if taken is None:
            return Outcome.NOT_TAKEN
        job_id, attempt = taken
        self.job = job_id
        try:
            with bound_contextvars(job=job_id, attempt=attempt):
                job = self._retry_in_outage(lambda: self.store.get(job_id))
                # Confirms the attempt, which counts as failed from now on if it ends without progress.
                self._retry_in_outage(lambda: self.store.renew(job_id, attempt, lease_s))
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
            environment = attempt_environment(self.settings, self.device)
            process = AttemptProcess(self.command(folder, job.type), folder, environment)
        except OSError as error:
            problem = storage_error(error)
            if problem is None:
                return self._settle(job, attempt, summary, f"the process did not start: {error}")
            summary.error = self._room.error(problem)
            return self._settle(job, attempt, summary, ExitCode.NO_ROOM)
        monitor = AttemptMonitor(self.store, self.settings, self.stopping, job.id, attempt)
        with closing(process):
            code = monitor.until_exit(process, reader, summary)
        if monitor.stale:
            log.warning("job %s: attempt %d lost its lease", job.id, attempt)
            return Outcome.LOST
        if monitor.stalled:
            why = f"the process reported no progress for {self.settings.stall_seconds:g} s and was killed"
            summary.error = {"type": "trainer-stalled", "title": "The trainer hung", "detail": why}
        # It is no fault of the job that we stopped its process, or that another one held the folder. If the lease is
        # lost, too, the store refuses the record.
        if code == ExitCode.STALE or (process.stopping and code < 0):
            code = ExitCode.PREEMPTED
        return self._settle(job, attempt, summary, code)

    def _prepare(self, job: Job, attempt: int) -> Path:
        folder = self.settings.jobs_dir / job.id
        make_folder(folder)
        record = job.model_copy(update={"attempts": attempt, "device": kind_of(self.device)})
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
        if end == ExitCode.CANCELLED or self._retry_in_outage(lambda: self.store.get(job.id)).cancel_requested:
            return Status.CANCELLED, changes
        if end == ExitCode.NO_ROOM:
            log.warning("job %s: attempt %d met a disk that is full or takes no writes", job.id, attempt)
            self._room.note_failure(job.id, _local_folder(job.output))
            return Status.QUEUED, {**changes, "error": summary.error or self._room.error()}
        error = summary.error or _death(end)
        if end == ExitCode.REFUSED:
            log.error("job %s: %s", job.id, error["detail"])
            return Status.FAILED, {**changes, "error": error}
        without_progress = 0 if summary.new_checkpoint else job.attempts_without_progress + 1
        self._deaths = 0 if summary.new_checkpoint else self._deaths + 1
        detail = error["detail"]
        log.warning("job %s: attempt %d died (%s); %d without progress", job.id, attempt, detail, without_progress)
        over = without_progress >= self.settings.max_attempts_without_progress
        changes |= {"error": error, "attempts_without_progress": without_progress}
        return Status.FAILED if over else Status.QUEUED, changes

    def _leave(self, job_id: str, attempt: int, status: Status, changes: dict[str, Any]) -> Status:
        if status is Status.QUEUED:
            return self.store.put_back(job_id, attempt, changes)
        self.store.finish(job_id, attempt, status, changes)
        if status is Status.FAILED and record_failure(
            RunStore(self.settings.run_records_dir), job_id, changes["error"]
        ):
            self.store.recorded(job_id)
        return status

    def _retry_in_outage(self, call: Callable[[], T]) -> T:
        """Return the result of a call of the store, repeated while the broker is down and the worker does not stop."""
        deadline: float | None = None
        while True:
            try:
                return call()
            except BrokerDown:
                if self.stopping.is_set() and deadline is None:
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


def _local_folder(output: str | None) -> Path | None:
    if output is None:
        return None
    from snf_models.locations.location import Location  # noqa: PLC0415 - few jobs have an output

    return Location(output).local_path


def _death(end: int | str) -> dict[str, str]:
    """Return the error of an attempt that reported none, by its exit code, which is negative for a signal."""
    if end == -signal.SIGKILL:
        detail = "killed, likely out of memory: a smaller batch_size or preset needs less"
        return {"type": "out-of-memory", "title": "Killed, likely out of memory", "detail": detail}
    detail = end if isinstance(end, str) else f"ended {how_ended(end)}"
    if end == ExitCode.DONE:
        detail = "the process ended without a result"
    return {"type": "trainer-died", "title": "The trainer died", "detail": detail}


def takes_helpers(job: Job, settings: Settings) -> bool:
    return job.type == "score" and (settings.ray_address is None or job.output is None)


@dataclass(eq=False)
class HelperProcess:
    """Starter of the process in which an idle worker helps with a bulk job; that process owns no part of the job."""

    store: JobStore
    settings: Settings
    stopping: threading.Event
    device: str
    queues: Sequence[Queue]
    job: str | None = None
    _useless: deque[str] = field(default_factory=lambda: deque(maxlen=1000))  # jobs that this machine cannot score

    def run(self) -> int | None:
        """Help with a bulk job until no images are free or a job waits; return an exit code, or None if not started."""
        for job in self.store.list(status=Status.RUNNING, type="score").jobs:
            if takes_helpers(job, self.settings) and self.store.shards(job.id).free():
                return self._help(job.id)
        return None

    def _help(self, job_id: str) -> int | None:
        folder = self.settings.jobs_dir / job_id
        if job_id in self._useless or self._must_stop(job_id) or not folder.is_dir():
            return None
        problem = room_problem(self.settings.jobs_dir)
        if problem is not None:
            log.info("not helping with job %s: %s", job_id, problem)
            return None
        log.info("helping with job %s", job_id)
        process = AttemptProcess(helper_command(folder), folder, attempt_environment(self.settings, self.device))
        self.job = job_id
        look_at = 0.0
        try:
            while (code := process.wait(_TICK_S)) is None:
                if process.stopping or (time.monotonic() < look_at and not self.stopping.is_set()):
                    continue
                look_at = time.monotonic() + _LOOK_S
                if self._must_stop(job_id):
                    process.stop(StopReason.PREEMPT, self.settings.stop_grace_seconds)
        finally:
            self.job = None
            process.close()
        log.info("helped with job %s (exit code %d)", job_id, code)
        if code not in (ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.NO_ROOM) and not process.stopping:
            self._useless.append(job_id)
        return code

    def _must_stop(self, job_id: str) -> bool:
        """Return whether the worker stops, the job has ended, or a job waits for this worker."""
        if self.stopping.is_set():
            return True
        try:
            return self.store.get(job_id).status not in ACTIVE or any(map(self.store.waiting, self.queues))
        except JobNotFound:
            return True
        except BrokerDown:
            return False  # unknown, and what is scored is not lost
