"""Writer of the record and the curve of a training run, for jobs and for the command line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from snf_models.atomic_files import make_folder, write_atomically
from snf_models.errors import ModelsError
from snf_models.training.interrupted import Interrupted
from snf_worker.errors import JobsError
from snf_worker.jobs.curve import newest_attempt
from snf_worker.jobs.event_file import FILE as CURVE
from snf_worker.jobs.event_log import EventLog
from snf_worker.jobs.record import new_job_id
from snf_worker.private_home import private_umask
from snf_worker.runs.record import RunResult, RunStart, TrainingRun
from snf_worker.runs.store import RUN_ID, RunStore
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.registry.version import ModelVersion

Observer = Callable[[dict[str, Any]], None]

KEPT = frozenset({"started", "metrics", "validation"})
"""The events that make a curve."""
ID_FILE = "run-id"
CRASHED = "The training crashed; the log of its job, or the output of its command, says why"
"""What a record has in place of the text of an unexpected error, which may name files of this machine."""

log = logging.getLogger(__name__)


class RunRecorder:
    """Observer of a training that writes its record from the first event on; an error fails the run of a command."""

    def __init__(
        self,
        store: RunStore,
        start: RunStart,
        run_id: Callable[[], str],
        attempt: int | None = None,
        *,
        write: bool = True,
    ) -> None:
        self._write = write
        self._store = store
        self._start = start
        self._run_id = run_id
        self._attempt = attempt
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
            self._end("finished", result=RunResult.of(version, live=live), **figures)
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
            text = _reason(error) if self._attempt is None else None
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
            attempt = self._attempt or last + 1
            now = datetime.now(UTC)
            started = now if earlier is None else earlier.started
            self._run = TrainingRun(**vars(self._start), id=run_id, attempts=attempt, started=started)
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


def recorded_run(start: RunStart, settings: Settings, folder: Path, *, write: bool) -> RunRecorder:
    """Return the recorder of a training on the command line; its run's id is kept in the checkpoints' folder."""
    store = RunStore(settings.run_records_dir)
    return RunRecorder(store, start, lambda: _id_in(folder, store), write=write)


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
    from snf_models.devices import lack_of_memory  # noqa: PLC0415 - PyTorch takes seconds to import

    if not isinstance(error, Exception) or isinstance(error, Interrupted | JobsError):
        return None
    if isinstance(error, ModelsError):
        return f"{error.title}: {error.detail}"
    lack = lack_of_memory(error)
    return f"{CRASHED} ({type(error).__name__})" if lack is None else f"Out of memory: {lack}"
