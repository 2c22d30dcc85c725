"""Common code of processes that run one attempt at a job: requests to stop, lease checks and exit codes."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.attempts.stop_flag import StopFlag
from worker.errors import BrokerDown, StaleAttempt
from worker.jobs.event_log import EventLog
from worker.jobs.store import JobStore
from worker.process_tuning import tune_process
from worker.runtime.process import ExitCode
from worker.sandbox.process import limit_memory, prefer_oom_kill
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from models.errors import ModelsError

log = logging.getLogger(__name__)

BEGAN = time.monotonic()
"""Start of this process, from which a budget in minutes counts."""

_OUTAGE_S = 0.5


class JobSpec(BaseModel):
    """Description of one attempt to run a job, read from ``job.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    attempt: int
    model: str
    dataset: str
    preset: str = ""
    architecture: dict[str, Any] | None = None
    parameters: dict[str, Any]
    promote: bool
    device: Literal["cpu", "cuda"] = "cpu"
    retry_of: str | None = None

    @property
    def output(self) -> str | None:
        """URL to which a scoring job writes its scores in parts; None for a table in the job's folder."""
        url: str | None = self.parameters.get("output")
        return url

    @property
    def datasets(self) -> tuple[str, ...]:
        masks = self.parameters.get("masks") or {}
        return self.dataset, *(self.parameters.get("against") or ()), *masks.values()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``job.json`` from a job's folder; raise ``OSError`` or ``ValidationError``."""
        return cls.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))


class Fence:
    """Guard that stops an attempt once it has lost its lease; the attempt's number is a fencing token."""

    def __init__(self, store: JobStore, spec: JobSpec, settings: Settings, stop: StopFlag) -> None:
        self._store = store
        self._spec = spec
        self._stop = stop
        self._every_s = settings.heartbeat_seconds
        self._patience_s = settings.lease_seconds
        self._checked = time.monotonic()

    def check_periodically(self) -> None:
        """Raise ``StaleAttempt`` if the lease is lost; ask Redis once per heartbeat and tolerate an outage."""
        if time.monotonic() - self._checked < self._every_s:
            return
        try:
            self._check()
        except BrokerDown as problem:
            log.warning("cannot check the lease; the work continues: %s", problem.detail)
            self._checked = time.monotonic()

    def require(self) -> None:
        """Raise ``StaleAttempt`` if the lease is lost, or ``Interrupted`` if asked to stop during an outage."""
        from models.training.interrupted import Interrupted

        while True:
            try:
                return self._check()
            except BrokerDown as problem:
                if self._stop.is_set():
                    raise Interrupted("asked to stop while the broker was down") from problem
                time.sleep(_OUTAGE_S)

    def check_before_publish(self) -> None:
        """Raise ``StaleAttempt`` if the lease is lost, or ``BrokerDown`` after an outage as long as a lease."""
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
            raise StaleAttempt(f"attempt {self._spec.attempt} of job {self._spec.id} no longer holds its lease")
        self._checked = time.monotonic()


Work = Callable[[Path, JobSpec, Settings, EventLog, StopFlag], None]


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


def attempt(work: Work) -> int:
    """Run one attempt of the job in the folder named on the command line; return the exit code."""
    settings, stop = prepare_process()
    folder = Path(sys.argv[1])
    spec = JobSpec.read(folder)
    try:
        events = EventLog(folder, spec.attempt)
    except OSError as error:
        from models.disk_space import storage_error

        if storage_error(error) is None:
            raise
        log.error("%s", error)
        return ExitCode.NO_ROOM
    return _run(work, folder, spec, settings, events, stop)


def _run(work: Work, folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> int:
    """Run ``work``; return the exit code that stands for what it raises."""
    from models.disk_space import storage_errors
    from models.errors import ModelsError
    from models.training.interrupted import Interrupted

    try:
        with storage_errors(), lock_folder(folder, settings.lease_seconds):
            _require_allowed(spec, settings)
            work(folder, spec, settings, events, stop)
    except (Interrupted, BrokerDown) as problem:
        # An outage is no fault of the job: the next attempt continues from the checkpoint.
        log.info("the attempt ends before the work is done: %s", problem)
        return stop.exit_code
    except StaleAttempt as problem:
        log.error("%s", problem.detail)
        return ExitCode.STALE
    except ModelsError as problem:
        log.error("%s: %s", problem.slug, problem.detail)
        return _refuse(problem, events)
    except ValidationError as problem:
        log.error("%s", problem)
        events.write(_error("invalid-parameters", "Invalid parameters", str(problem)))
        return ExitCode.REFUSED
    except Exception as problem:
        # The cause may be the machine: the supervisor repeats the attempt, and the record gets the error.
        log.exception("the attempt crashed")
        error = explain(problem, settings.train_memory_bytes)
        events.write(error)
        # Another attempt would need as much.
        return ExitCode.REFUSED if error["type"] == "memory-limit" else 1
    return ExitCode.DONE


def _require_allowed(spec: JobSpec, settings: Settings) -> None:
    """Raise ``LocationRefused`` if a dataset was made of a location that callers may no longer name."""
    from models.datasets import DatasetStore
    from models.locations.allowed import allowed_location

    store = DatasetStore(settings.datasets_dir)
    for name in filter(store.has, spec.datasets):
        record = store.reference(name)
        if record is not None and record.by_request:
            allowed_location(record.location, settings.allowed_locations, settings.home)


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


def _refuse(problem: "ModelsError", events: EventLog) -> int:
    from models.disk_space import waits_for_room
    from models.errors import RayUnavailable
    from models.locations.errors import LocationUnavailable

    error = _error(problem.slug, problem.title, problem.detail)
    if waits_for_room(problem):
        with suppress(OSError):  # the exit code says the same
            events.write(error)
        return ExitCode.NO_ROOM
    events.write(error)
    # The server of a location, or a cluster, may answer again: the supervisor repeats the attempt.
    return 1 if isinstance(problem, LocationUnavailable | RayUnavailable) else ExitCode.REFUSED


def explain(problem: Exception, limit: int | None) -> dict[str, str]:
    """Return the error event of an unexpected exception; ``limit`` is the memory limit in bytes."""
    from models.devices import OUT_OF_MEMORY, lack_of_memory

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
