from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from snf_models.atomic_files import make_folder, remove_folder, remove_leftovers, write_atomically
from snf_worker.errors import JobConflict, RunNotFound
from snf_worker.jobs.curve import CurveEvents, read_curve, thin
from snf_worker.jobs.event_file import FILE as CURVE
from snf_worker.jobs.event_file import Event
from snf_worker.private_home import private_umask
from snf_worker.runs.record import TrainingRun

RECORD = "run.json"
LOCK = ".lock"
RUN_ID = re.compile(r"[0-9a-z]{26}")
MAX_POINTS = 1000
"""Points of the curve of a run that has ended: more than a chart has columns. Validations are kept, all of them."""
LEFTOVERS_S = 3600
"""Age from which temporary files of killed processes are removed."""

log = logging.getLogger(__name__)


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
        kept: list[Event] = sorted([*thin(curve.points, MAX_POINTS), *curve.validations], key=_step)
        write_atomically(path, b"".join(_line(event) for event in kept))

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


def _step(event: Event) -> int:
    step: int = event["step"]
    return step


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
