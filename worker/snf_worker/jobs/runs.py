from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from snf_client.schemas.training import RunResult, TrainingRun
from snf_models.disk import make_folder, remove_folder, remove_leftovers, write_atomically
from snf_models.errors import Interrupted, ModelsError
from snf_worker.errors import JobConflict, JobsError, RunNotFound
from snf_worker.jobs.events import FILE as CURVE
from snf_worker.jobs.events import CurveEvents, Event, EventLog, newest_attempt, read_curve, thin
from snf_worker.jobs.record import Job, new_job_id
from snf_worker.process_setup import private_umask
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.registry.registry import ModelVersion

log = logging.getLogger(__name__)


RECORD = "run.json"
LOCK = ".lock"
RUN_ID = re.compile(r"[0-9a-z]{26}")
MAX_POINTS = 1000
"""Points of the curve of a run that has ended: more than a chart has columns. Validations are kept, all of them."""
LEFTOVERS_S = 3600  # age from which temporary files of killed processes are removed


class RunStore:
    """Store of training runs: a folder a run, with ``run.json`` and the curve in the format of a job's events."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run, which may not exist; raise ``RunNotFound`` if the text is no id."""
        if RUN_ID.fullmatch(run_id) is None:
            raise RunNotFound(f"no run has the id {run_id[:64]!r}")
        return self._folder / run_id

    def write(self, run: TrainingRun) -> None:
        folder = self.folder(run.id)
        with private_umask():
            make_folder(folder)
            write_atomically(folder / RECORD, run.model_dump_json(indent=1).encode())

    @contextmanager
    def in_use(self, run_id: str) -> Iterator[None]:
        """Keep all processes from removing the folder of a run during the block."""
        folder = self.folder(run_id)
        with private_umask():
            make_folder(folder)
            remove_leftovers(self._folder, LEFTOVERS_S)
            remove_leftovers(folder, LEFTOVERS_S)
            lock = (folder / LOCK).open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def find(self, run_id: str) -> TrainingRun | None:
        """Return the record of a training run, or None if it is missing or damaged."""
        try:
            return self.get(run_id)
        except RunNotFound:
            return None

    def get(self, run_id: str) -> TrainingRun:
        """Return the record of a training run; raise ``RunNotFound`` if it is missing or damaged."""
        path = self.folder(run_id) / RECORD
        try:
            run = TrainingRun.model_validate_json(path.read_bytes())
            if run.id != run_id:
                raise ValueError(f"expected the id of its folder, got {run.id[:64]!r}")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFound(f"no run has the id {run_id}") from error
        except (OSError, ValueError) as error:  # pydantic's errors are of ValueError
            _warn_of_damage(path, str(error))
            raise RunNotFound(f"the record of run {run_id} is damaged; only its deletion is left") from error
        return run

    def list(self, limit: int, after: str | None = None) -> list[TrainingRun]:
        """Return up to ``limit`` records older than the run ``after``, newest first, without damaged ones."""
        if not self._folder.is_dir():
            return []
        names = {path.name for path in self._folder.iterdir() if RUN_ID.fullmatch(path.name)}
        runs: list[TrainingRun] = []
        for name in sorted(names, reverse=True):
            if len(runs) == limit:
                break
            if (after is None or name < after) and (run := self.find(name)) is not None:
                runs.append(run)
        return runs

    def curve(self, run_id: str) -> CurveEvents:
        """Return the curve of a run, empty before its first report; raise ``RunNotFound``."""
        self.get(run_id)
        return read_curve(self.folder(run_id) / CURVE)

    def thin_curve(self, run_id: str) -> None:
        """Reduce the curve of a run that has ended to at most 1000 points; all validations are kept."""
        path = self.folder(run_id) / CURVE
        if not path.exists():
            return
        curve = read_curve(path)
        kept: list[Event] = sorted(
            [*thin(curve.points, MAX_POINTS), *curve.validations], key=lambda event: event["step"]
        )
        write_atomically(path, b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in kept))

    def remove(self, run_id: str) -> None:
        """Delete the record, damaged or not, and the curve of a run; raise ``JobConflict`` if it is in use."""
        folder = self.folder(run_id)
        try:
            with (folder / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_folder(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFound(f"no run has the id {run_id}") from error
        except BlockingIOError as error:
            reason = f"run {run_id} is being trained or deleted; cancel it first or wait for its end"
            raise JobConflict(reason) from error


@lru_cache(maxsize=256)
def _warn_of_damage(path: Path, reason: str) -> None:
    """Log that a record is damaged, once for each record and reason: lists are read every few seconds."""
    log.warning("leaving out %s, which is damaged: %s", path, reason)


Observer = Callable[[dict[str, Any]], None]

KEPT = frozenset({"started", "metrics", "validation"})  # the events that make a curve
ID_FILE = "run-id"
_OF_JOB = {"origin", "model", "dataset", "preset", "parameters", "device", "retry_of"}
CRASHED = "The training crashed; the log of its job, or the output of its command, says why"
"""What a record has in place of the text of an unexpected error, which may name files of this machine."""


class RunRecorder:
    """Observer of a training that writes its record from the first event on; an error fails the run of a command."""

    def __init__(
        self, store: RunStore, job: Job, run_id: Callable[[], str] | None = None, *, write: bool = True
    ) -> None:
        self._write = write
        self._store = store
        self._job = job
        self._run_id = run_id or (lambda: job.id)
        self._run: TrainingRun | None = None
        self._curve: EventLog | None = None
        self._in_use = ExitStack()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of the training; raise ``OSError`` if the disk takes no writes."""
        if not self._write:
            return
        run = self._begun()
        if event["event"] in KEPT:
            if self._curve is None:
                with private_umask():
                    self._curve = EventLog(self._store.folder(run.id), run.attempts)
            self._curve.write(event)

    def passing_on(self, observe: Observer) -> Observer:
        """Return a function that records each training event and then calls ``observe`` with the event."""

        def both(event: dict[str, Any]) -> None:
            self(event)
            observe(event)

        return both

    def published(self, version: ModelVersion, *, live: bool) -> str | None:
        """Record the registered version; return a sentence if that failed, which takes nothing from the version."""
        training = version.manifest.training
        figures = {"steps": training.steps, "seconds": training.seconds}
        try:
            self._end("finished", result=_result_of(version, live=live), **figures)
        except OSError as error:
            problem = f"the record of this training could not be written: {error.strerror or type(error).__name__}"
            log.warning("%s (%s)", problem, error)
            return problem
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._in_use:
            text = _reason(error) if self._job.origin == "command" else None
            if text is None or self._run is None or self._run.state == "finished":
                return
            try:
                self._end("failed", error=text)
            except OSError as problem:
                log.warning("the record of run %s does not say that it failed: %s", self._run.id, problem)

    def _begun(self) -> TrainingRun:
        if self._run is None:
            run_id = self._run_id()
            self._in_use.enter_context(self._store.in_use(run_id))
            earlier = self._store.find(run_id)
            # The events of a run whose record is damaged still count: those of an older attempt are left out.
            last = newest_attempt(self._store.folder(run_id) / CURVE) if earlier is None else earlier.attempts
            attempt = self._job.attempts or last + 1
            now = datetime.now(UTC)
            started = now if earlier is None else earlier.started
            fields = self._job.model_dump(include=_OF_JOB)
            self._run = TrainingRun(**fields, id=run_id, attempts=attempt, started=started)
            self._store.write(self._run)
        return self._run

    def _end(self, state: str, **changes: Any) -> None:
        run = self._begun()
        if not self._store.folder(run.id).is_dir():
            log.warning("run %s was deleted while it was trained, and stays so", run.id)
            return
        ended = {"state": state, "ended": datetime.now(UTC), "error": None, **changes}
        self._run = run.model_copy(update=ended)
        self._store.write(self._run)
        self._store.thin_curve(run.id)


def record_failure(store: RunStore, run_id: str, error: Mapping[str, str]) -> bool:
    """Mark an unfinished run, if there is one, as failed; return False if the disk took no writes."""
    run = store.find(run_id)
    if run is None or run.state != "unfinished":
        return True
    text = CRASHED if error["type"] == "attempt-crashed" else f"{error['title']}: {error['detail']}"
    try:
        store.write(run.model_copy(update={"state": "failed", "ended": datetime.now(UTC), "error": text}))
        store.thin_curve(run_id)
    except OSError as problem:
        log.warning("the record of run %s does not say that it failed: %s", run_id, problem)
        return False
    return True


def recorded_run(job: Job, settings: Settings, folder: Path, *, write: bool) -> RunRecorder:
    """Return the recorder of a training on the command line; its run's id is kept in the checkpoints' folder."""
    store = RunStore(settings.run_records_dir)
    return RunRecorder(store, job, lambda: _id_in(folder, store), write=write)


def _id_in(folder: Path, store: RunStore) -> str:
    """Return the id of the run whose checkpoints are in a folder, unless it finished; else leave a new id there."""
    path = folder / ID_FILE
    known = path.read_text(encoding="ascii", errors="replace").strip() if path.is_file() else ""
    run = store.find(known) if RUN_ID.fullmatch(known) else None
    if RUN_ID.fullmatch(known) is None or (run is not None and run.state == "finished"):
        known = new_job_id()
        make_folder(folder)
        write_atomically(path, f"{known}\n".encode())
    return known


def _reason(error: BaseException | None) -> str | None:
    """Return why a run has failed; None if it was only interrupted, or ended by the broker or another attempt."""
    from snf_models.bijections.devices import lack_of_memory  # noqa: PLC0415 - PyTorch takes seconds to import

    if not isinstance(error, Exception) or isinstance(error, Interrupted | JobsError):
        return None
    if isinstance(error, ModelsError):
        return f"{error.title}: {error.detail}"
    lack = lack_of_memory(error)
    return f"{CRASHED} ({type(error).__name__})" if lack is None else f"Out of memory: {lack}"


def _result_of(version: ModelVersion, *, live: bool) -> RunResult:
    manifest = version.manifest
    measured = manifest.evaluation
    return RunResult(
        ref=f"{version.name}:{version.version}",
        live=live,
        unfit={check.code: check.sentence for check in manifest.unfit},
        architecture=manifest.architecture.summary(),
        best_step=manifest.training.best_step,
        validation_bits_per_dim=measured.validation_bits_per_dim,
        test_bits_per_dim=measured.test_bits_per_dim,
        test_nats=measured.test_nats,
        reconstruction_error=measured.reconstruction_error,
    )
