"""``python -m snf_worker.attempts.run_attempt MODULE[:FUNCTION] JOB_DIR``: run one attempt, by default by ``run``."""

import fcntl
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from snf_models.datasets import DatasetStore
from snf_models.disk import new_folder, storage_error, storage_errors, waits_for_room
from snf_models.errors import Interrupted, LocationUnavailable, ModelsError, RayUnavailable
from snf_models.locations.location import allowed_location
from snf_models.naming import parse_ref
from snf_models.registry.registry import ModelVersion, Registry
from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown, JobNotFound, JobsError, StaleAttempt
from snf_worker.jobs.events import EventLog
from snf_worker.jobs.record import ExitCode, Job, StopReason
from snf_worker.jobs.store import JobStore
from snf_worker.process_setup import limit_memory, prefer_oom_kill, tune_process, watch
from snf_worker.settings import Settings, load_settings

log = logging.getLogger(__name__)

REPORT_S = 0.5  # shortest time in seconds between two reports of a job's progress
UNCHANGED_S = 5.0  # time in seconds after which a report without any progress is written all the same
NOTE_S = 5.0
"""Shortest time in seconds between two notes on the preparation of a dataset, or on the check of score files."""


class ProgressReporter:
    """Writer of progress events; speed and time left do not count the ``done`` steps of earlier attempts."""

    def __init__(self, events: EventLog, total: int, done: int = 0) -> None:
        self.done = done
        self._events = events
        self._total = total
        self._part, self._before_part = "", 0
        self._done_before = self._reported = done
        self._began = self._reported_at = time.monotonic()
        events.write({"event": "started", "step": done, "steps": total})

    def report(self, done: int, total: int | None = None, part: str = "") -> None:
        """Write a progress event, at most one every 0.5 s and always the last.

        ``total`` replaces the total. ``done`` counts from the begin of ``part``, where the work has several.
        """
        changed = total is not None and total != self._total
        self._total = total if total is not None else self._total
        if part != self._part:
            self._part, self._before_part = part, self.done
        self.done = done = min(self._before_part + done, self._total)
        now = time.monotonic()
        waited = now - self._reported_at
        if done == self._reported and not changed:
            if waited < UNCHANGED_S:
                return
        elif waited < REPORT_S and done < self._total:
            return
        self._reported, self._reported_at = done, now
        speed = (done - self._done_before) / max(now - self._began, 1e-3)
        self._events.write(
            {
                "event": "metrics",
                "step": done,
                "steps": self._total,
                "progress": done / max(self._total, 1),
                "images_per_second": speed,
                "eta_seconds": (self._total - done) / speed if speed > 0 else None,
            }
        )

    def checkpoint(self, done: int | None = None) -> None:
        """Write that the progress up to ``done``, by default the step reported last, is saved."""
        self.done = self.done if done is None else done
        self._events.write({"event": "checkpoint", "step": self.done})


def note_reporter(events: EventLog, text: str, go_on: Callable[[], None] = lambda: None) -> Callable[[int, int], None]:
    """Return a callback that notes the progress of a preparation or a check, every few seconds at most."""
    reported_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= NOTE_S:
            reported_at = time.monotonic()
            events.write({"event": "log", "message": f"{text}: {done} of {total}"})
        go_on()  # raises an error where the job must stop

    return report


@dataclass
class LabelledProgress:
    """Writer of progress events of a job that scores several named groups of images."""

    events: EventLog
    go_on: Callable[[], None]  # raises an error where the job must stop
    _reporter: ProgressReporter | None = None
    _label: str = ""

    def report(self, label: str, done: int, total: int) -> None:
        """Write a progress event, every 0.5 s at most and always the last, and a log event for a new label."""
        self.go_on()
        self._reporter = self._reporter or ProgressReporter(self.events, total, done)
        if label != self._label:
            self._label = label
            self.events.write({"event": "log", "message": label})
        self._reporter.report(done, total)

    def checkpoint(self) -> None:
        if self._reporter is not None:
            self._reporter.checkpoint()


BEGAN = time.monotonic()  # start of this process, from which a budget in minutes counts

_OUTAGE_S = 0.5


class StopFlag(threading.Event):
    """Flag that asks the process of a job to stop, set by a signal, a message of the parent, or its death."""

    reason = StopReason.PREEMPT

    def install(self, grace_s: float) -> None:
        """Install the handlers. If the supervisor is gone, the process is killed after ``grace_s`` seconds."""

        def on_message(message: bytes) -> None:
            self.reason = StopReason(message.decode())
            self.set()

        def on_orphaned() -> None:
            self.set()
            time.sleep(grace_s)
            # A hung process would hold the lock of the folder for ever.
            os.killpg(0, signal.SIGKILL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.set())
        watch(on_message, on_orphaned)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code after a request to stop: 76 if the job was cancelled, 75 if a later attempt continues the job."""
        return ExitCode.CANCELLED if self.reason is StopReason.CANCEL else ExitCode.PREEMPTED


def read_job(folder: Path) -> Job:
    """Return the job of a folder, as the supervisor wrote it; raise ``OSError`` or ``ValidationError``."""
    return Job.model_validate_json((folder / "job.json").read_bytes())


def open_model(job: Job, registry: Registry, calibration: int | None) -> ModelVersion:
    """Return a job's model with a calibration, by default the active one."""
    name, version = registry.locate(parse_ref(job.model))
    number = registry.calibrations(name, version).active() if calibration is None else calibration
    return registry.with_calibration(name, version, number)


@dataclass(eq=False)
class Attempt:
    """One attempt at a job: its folder, its events, requests to stop, and its lease.

    An attempt that has lost its lease must write nothing more; its number is a fencing token.
    """

    folder: Path
    job: Job
    settings: Settings
    events: EventLog
    _stop: StopFlag
    _checked: float = field(default_factory=time.monotonic)

    @cached_property
    def store(self) -> JobStore:
        return JobStore(redis_client(self.settings), self.settings.key_prefix)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings.registry_dir)

    @cached_property
    def datasets(self) -> DatasetStore:
        return DatasetStore(self.settings.datasets_dir, quota=self.settings.dataset_quota_bytes)

    def note(self, text: str) -> None:
        self.events.write({"event": "log", "message": text})

    def adopt(self, name: str, text: str) -> None:
        """Continue from a subfolder of the jobs that this one retries, if it has none and one of them has."""
        target, earlier = self.folder / name, self.job.retry_of
        while earlier is not None and not target.exists():
            source = self.folder.parent / earlier / name
            if source.is_dir():
                # Hard links: the files are never changed, and those of the earlier job may be removed at any time.
                with new_folder(target) as folder:
                    shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
                self.note(f"{text} of job {earlier}")
                return
            try:
                earlier = self.store.get(earlier).retry_of
            except JobNotFound:
                return

    def preparation(self) -> Callable[[int, int], None]:
        """Return a callback for the preparation of a dataset, which notes its progress and raises as ``go_on``."""
        return note_reporter(self.events, "prepares the images", self.go_on)

    def should_stop(self) -> bool:
        """Return whether to stop; raise ``StaleAttempt`` if the lease is lost.

        Redis is asked once per heartbeat, and an outage is tolerated.
        """
        if time.monotonic() - self._checked >= self.settings.heartbeat_seconds:
            try:
                self._check_lease()
            except BrokerDown as problem:
                log.warning("cannot check the lease; the work continues: %s", problem.detail)
                self._checked = time.monotonic()
        return self._stop.is_set()

    def go_on(self) -> None:
        """Raise ``StaleAttempt`` if the lease is lost, or ``Interrupted`` if asked to stop."""
        if self.should_stop():
            raise Interrupted("asked to stop")

    def require_lease(self, patience_s: float = math.inf) -> None:
        """Raise ``StaleAttempt`` if the lease is lost, and in an outage ``Interrupted`` if asked to stop.

        After an outage of ``patience_s`` seconds ``BrokerDown`` is raised.
        """
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._check_lease()
            except BrokerDown as problem:
                if self._stop.is_set():
                    raise Interrupted("asked to stop while the broker was down") from problem
                if time.monotonic() > deadline:
                    raise
                time.sleep(_OUTAGE_S)

    def check_before_publish(self) -> None:
        """Require the lease while the registry is locked, which must not last longer than a lease."""
        self.require_lease(self.settings.lease_seconds)

    def _check_lease(self) -> None:
        if not self.store.holds(self.job.id, self.job.attempts):
            raise StaleAttempt(f"attempt {self.job.attempts} of job {self.job.id} no longer holds its lease")
        self._checked = time.monotonic()


def main() -> int:
    """Run an attempt, or with ``--assist`` help with one of another process; return the exit code."""
    settings, stop = prepare_process()
    work, folder = sys.argv[1], Path(sys.argv[2])
    module, _, function = work.partition(":")
    if sys.argv[3:] == ["--assist"]:
        code: ExitCode = import_module(module).assist(folder, settings, stop)
        return code

    def run(attempt: Attempt) -> None:
        getattr(import_module(module), function or "run")(attempt)

    return run_attempt(run, folder, settings, stop)


def prepare_process() -> tuple[Settings, StopFlag]:
    """Set priority, memory limit, logging and stop signals; return the settings and the stop flag."""
    tune_process()
    stop = StopFlag()
    settings = load_settings()
    stop.install(settings.stop_grace_seconds)
    os.nice(settings.nice)
    limit_memory(settings.train_memory_bytes)
    prefer_oom_kill()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    return settings, stop


def run_attempt(work: Callable[[Attempt], None], folder: Path, settings: Settings, stop: StopFlag) -> int:
    """Run ``work`` on the job in a folder; return the exit code that stands for what it raises."""
    job = read_job(folder)
    try:
        events = EventLog(folder, job.attempts)
    except OSError as problem:
        if storage_error(problem) is None:
            raise
        log.error("%s", problem)
        return ExitCode.NO_ROOM
    attempt = Attempt(folder, job, settings, events, stop)
    try:
        with storage_errors(), lock_folder(folder, settings.lease_seconds):
            _require_allowed(attempt)
            work(attempt)
    except (Interrupted, BrokerDown) as problem:
        # An outage is no fault of the job: the next attempt continues from the checkpoint.
        log.info("the attempt ends before the work is done: %s", problem)
        return stop.exit_code
    except StaleAttempt as problem:
        log.error("%s", problem.detail)
        return ExitCode.STALE
    except Exception as problem:
        return _report(problem, attempt)
    return ExitCode.DONE


@contextmanager
def lock_folder(folder: Path, patience_s: float) -> Iterator[None]:
    """Lock a job's folder for one process; raise ``StaleAttempt`` after ``patience_s`` seconds."""
    with (folder / "trainer.lock").open("a", encoding="utf-8") as handle:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StaleAttempt(f"another attempt works in {folder}") from None
                time.sleep(0.2)
        yield


def _require_allowed(attempt: Attempt) -> None:
    """Raise ``LocationRefused`` if a dataset was made of a location that callers may no longer name."""
    for name in filter(attempt.datasets.has, attempt.job.datasets):
        record = attempt.datasets.reference(name)
        if record is not None and record.by_request:
            allowed_location(record.location, attempt.settings.allowed_locations, attempt.settings.home)


def _report(problem: Exception, attempt: Attempt) -> int:
    """Write the error event of an attempt; return its exit code."""
    error = explain(problem, attempt.settings.train_memory_bytes)
    expected = isinstance(problem, ModelsError | ValidationError)
    log.error("%s: %s", error["type"], error["detail"], exc_info=None if expected else problem)
    if isinstance(problem, ModelsError) and waits_for_room(problem):
        with suppress(OSError):  # the exit code says the same
            attempt.events.write(error)
        return ExitCode.NO_ROOM
    attempt.events.write(error)
    # The cause may be the machine, a server or a cluster: the supervisor repeats the attempt.
    repeat = isinstance(problem, LocationUnavailable | RayUnavailable | JobsError)
    return 1 if repeat or error["type"] in ("attempt-crashed", "out-of-memory") else ExitCode.REFUSED


def explain(problem: Exception, limit: int | None) -> dict[str, str]:
    """Return the error event of an exception; ``limit`` is the memory limit in bytes."""
    if isinstance(problem, ModelsError):
        return _error(problem.slug, problem.title, problem.detail)
    if isinstance(problem, ValidationError):
        return _error("invalid-parameters", "Invalid parameters", str(problem))
    from snf_models.bijections.devices import OUT_OF_MEMORY, lack_of_memory  # noqa: PLC0415 - imports PyTorch

    lack = lack_of_memory(problem)
    if lack is None:
        return _error("attempt-crashed", "The attempt crashed", f"{type(problem).__name__}: {problem}")
    if lack != OUT_OF_MEMORY or limit is None:
        return _error("out-of-memory", "Out of memory", lack)
    return _error(
        "memory-limit",
        "The job needs more memory than it may take",
        f"it reached the limit of {limit / 1e9:.1f} GB. The limit is SNF_TRAIN_MEMORY_BYTES, or less where "
        "other programs had taken it when the attempt began. A smaller image_size, batch_size or preset needs less",
    )


def _error(slug: str, title: str, detail: str) -> dict[str, str]:
    return {"event": "error", "type": slug, "title": title, "detail": detail}


if __name__ == "__main__":
    from snf_worker.attempts import run_attempt as module  # noqa: PLW0406 - the one that modules of attempts import

    raise SystemExit(module.main())
