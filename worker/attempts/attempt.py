"""What the process of every attempt does: stop when asked, ask whether it still owns the job, say how it ended.

Two attempts never run side by side on one machine (a lock on the folder), and an attempt asks whether its fencing
token is still the newest one now and then, and right before it makes its result known.
"""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.errors import BrokerDown, StaleAttempt
from worker.gc_tuning import relax_gc
from worker.jobs.events import EventLog
from worker.jobs.store import JobStore
from worker.runtime.lifeline import watch
from worker.runtime.process import ExitCode, StopReason
from worker.sandbox.work import limit_memory, prefer_oom_kill
from worker.settings import Settings, load_settings

log = logging.getLogger(__name__)

_OUTAGE_S = 0.5


class JobSpec(BaseModel):
    """What `job.json` tells the process of an attempt."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    attempt: int
    model: str
    dataset: str
    preset: str = ""
    parameters: dict[str, Any]
    promote: bool
    device: Literal["cpu", "cuda"] = "cpu"
    retry_of: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The specification in a job's folder; raises `OSError`, `pydantic.ValidationError`."""
        return cls.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))


class StopFlag:
    """Set by TERM, by the supervisor's message, or by its death; the first reason given by a message counts."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = StopReason.PREEMPT

    def install(self, grace_s: float) -> None:
        """Listens to the supervisor and to TERM and INT; one whose supervisor is gone is killed after `grace_s`."""

        def on_signal(_signum: int, _frame: FrameType | None) -> None:
            self.ask()

        def on_message(message: bytes) -> None:
            self.reason = StopReason(message.decode())
            self._event.set()

        def on_orphaned() -> None:
            self._event.set()
            time.sleep(grace_s)
            # Nobody else would: a hung process would keep the folder from every later attempt.
            os.killpg(0, signal.SIGKILL)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        watch(on_message, on_orphaned)

    def ask(self) -> None:
        """Ask the process to stop."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._event.is_set()

    @property
    def exit_code(self) -> ExitCode:
        """How a process that was asked to stop exits."""
        return ExitCode.CANCELLED if self.reason is StopReason.CANCEL else ExitCode.PREEMPTED


class Fence:
    """Asks the job store whether this attempt is still the one that may write."""

    def __init__(self, store: JobStore, spec: JobSpec, settings: Settings, stop: StopFlag) -> None:
        self._store = store
        self._spec = spec
        self._stop = stop
        self._every_s = settings.heartbeat_seconds
        self._patience_s = settings.lease_seconds
        self._checked = time.monotonic()

    def check_periodically(self) -> None:
        """Asks once a heartbeat; an outage of the broker is borne. Raises `StaleAttempt`."""
        if time.monotonic() - self._checked < self._every_s:
            return
        try:
            self._check()
        except BrokerDown as problem:
            log.warning("cannot check the lease, work goes on: %s", problem.detail)
            self._checked = time.monotonic()

    def require(self) -> None:
        """Ask now and wait while the broker is down; raise `StaleAttempt`, or `Interrupted` when asked to stop."""
        from models.training.loop import Interrupted

        while True:
            try:
                return self._check()
            except BrokerDown as problem:
                if self._stop.is_set():
                    raise Interrupted("asked to stop while the broker was down") from problem
                time.sleep(_OUTAGE_S)

    def check_before_publish(self) -> None:
        """Ask now, under a lock: wait for a lease's life at most; raise `StaleAttempt` or `BrokerDown`."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._check()
            except BrokerDown:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_OUTAGE_S)

    def _check(self) -> None:
        if not self._store.holds(self._spec.id, self._spec.attempt):
            raise StaleAttempt(f"attempt {self._spec.attempt} of job {self._spec.id} lost its lease")
        self._checked = time.monotonic()


Work = Callable[[Path, JobSpec, Settings, EventLog, StopFlag], None]


@contextmanager
def lock_folder(folder: Path, patience_s: float) -> Iterator[None]:
    """Holds the folder's lock; raises `StaleAttempt` where another process keeps it longer than `patience_s`."""
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


def attempt(work: Work) -> int:
    """Does the work of one attempt on the job whose folder the command line names; answers the exit code (`ExitCode`).

    What `work` raises decides: `Interrupted` was asked for, `StaleAttempt` came too late, `BrokerDown` is too long
    an outage, `ModelsError` is final, anything else is tried again.
    """
    settings, stop = prepare_process()
    folder = Path(sys.argv[1])
    spec = JobSpec.read(folder)
    events = EventLog(folder, spec.attempt)

    from models.errors import ModelsError
    from models.training.loop import Interrupted

    try:
        with lock_folder(folder, settings.lease_seconds):
            work(folder, spec, settings, events, stop)
    except (Interrupted, BrokerDown) as problem:
        # An outage says nothing of the job either: the next attempt goes on from the checkpoint.
        log.info("the attempt ends before its work is done: %s", problem)
        return stop.exit_code
    except StaleAttempt as problem:
        log.error("%s", problem.detail)
        return ExitCode.STALE
    except ModelsError as problem:
        log.error("%s: %s", problem.slug, problem.detail)
        events.write(_error(problem.slug, problem.title, problem.detail))
        return ExitCode.REFUSED
    except ValidationError as problem:
        log.error("%s", problem)
        events.write(_error("invalid-parameters", "Invalid parameters", str(problem)))
        return ExitCode.REFUSED
    except Exception as problem:
        # It may be the machine's fault: the supervisor tries again, and the record says why.
        log.exception("the attempt crashed")
        events.write(_explain(problem, settings.train_memory_bytes))
        return 1
    return ExitCode.DONE


def prepare_process() -> tuple[Settings, StopFlag]:
    """Prepare a process that works on a job: signals, niceness, memory, logging."""
    relax_gc()
    stop = StopFlag()
    settings = load_settings()
    stop.install(settings.stop_grace_seconds)
    os.nice(settings.nice)
    limit_memory(settings.train_memory_bytes)
    prefer_oom_kill()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    return settings, stop


def _explain(problem: Exception, limit: int | None) -> dict[str, str]:
    import torch

    # PyTorch says of the CPU's memory in words alone that it ran out.
    if isinstance(problem, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(problem):
        allowed = "" if limit is None else f"; a training process here gets {limit} bytes (SNF_TRAIN_MEMORY_BYTES)"
        detail = f"the process got no more memory: a smaller batch_size or preset needs less{allowed}"
        return _error("out-of-memory", "Out of memory", detail)
    return _error("attempt-crashed", "The attempt crashed", f"{type(problem).__name__}: {problem}")


def _error(slug: str, title: str, detail: str) -> dict[str, str]:
    return {"event": "error", "type": slug, "title": title, "detail": detail}
