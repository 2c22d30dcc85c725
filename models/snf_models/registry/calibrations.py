"""Numbered calibrations of a model version, one of which is active, and its detection limits. Free of torch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from snf_client.schemas.limits import LimitRecord
from snf_models.artifacts.files import check_digest, read_arrays
from snf_models.artifacts.manifest import (
    Activation,
    CalibrationRecord,
    CalibrationSummary,
    Manifest,
    file_label,
    read_json,
)
from snf_models.disk import locked, new_folder, remove_leftovers, write_atomically
from snf_models.errors import ArtifactError, CalibrationNotFound, LimitNotFound, ModelsError
from snf_models.naming import is_version
from snf_runtime.anomaly.calibration import USUAL_ALPHAS, Calibration, from_arrays, to_arrays


def attainable(smallest_p: float) -> tuple[float, ...]:
    return tuple(alpha for alpha in USUAL_ALPHAS if alpha >= smallest_p)


def coarser(number: int, smallest_p: float, used: int, used_smallest_p: float) -> str | None:
    """Return why calibration ``number`` cannot replace ``used`` by itself: a usual rate would be lost; else None.

    >>> coarser(1, 1 / 61, 0, 1 / 66) is None
    True
    >>> coarser(1, 1 / 31, 0, 1 / 66).partition("; ")[0]
    'its smallest p-value is 0.0323, that of calibration 0 in use 0.0152: it could no longer flag at alpha 0.02'
    """
    lost = [f"{alpha:g}" for alpha in attainable(used_smallest_p) if alpha < smallest_p]
    if not lost:
        return None
    *others, last = lost
    alphas = f"{', '.join(others)} and {last}" if others else last
    return (
        f"its smallest p-value is {smallest_p:.3g}, that of calibration {used} in use {used_smallest_p:.3g}: it could "
        f"no longer flag at alpha {alphas}; choose calibration {number} to use it all the same"
    )


log = logging.getLogger(__name__)

FOLDER = "calibrations"
RECORD = "calibration.json"
ARRAYS = "calibration.safetensors"
CHOICE = "active.json"
NOT_ASKED = "it was made without becoming active"
"""Why a calibration is not in use whose job was told not to activate it."""
OWN = 0  # the number of the calibration in the artifact itself
Record = TypeVar("Record", CalibrationRecord, LimitRecord)


class ActiveCalibration(BaseModel):
    """File ``active.json`` with the chosen calibration. One that is newer than ``newest`` is active instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: int = Field(OWN, ge=0)
    newest: int = Field(OWN, ge=0)


class NumberedStore(Generic[Record]):
    """Records in folders ``<version>/<number>/`` that never change. Writers hold the lock of the model's name."""

    FOLDER: ClassVar[str]
    FILE: ClassVar[str]
    SCHEMA: type[Record]
    NOUN: ClassVar[str]
    MISSING: ClassVar[type[ModelsError]]

    def __init__(self, root: Path, name: str, version: int) -> None:
        self.folder = root / name / self.FOLDER / str(version)
        self._label = f"{name}:{version}"
        self._of_name = root / name

    def stored(self) -> list[int]:
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in folders if is_version(path.name) and path.is_dir())

    def numbers(self) -> list[int]:
        return self.stored()

    def record(self, number: int) -> Record:
        """Read a record; raise the error of a missing one, and ``ArtifactError`` for a damaged file."""
        if number not in self.stored():
            there = ", ".join(map(str, self.numbers())) or "none"
            raise self.MISSING(f"{self._label} has no {self.NOUN} {number}; it has: {there}")
        return read_json(self.folder / str(number) / self.FILE, self.SCHEMA, self.NOUN)

    def readable(self) -> dict[int, Record]:
        """Return undamaged records by number; log the others, which must not hide them."""
        records = {}
        for number in self.stored():
            try:
                records[number] = self.record(number)
            except (ArtifactError, self.MISSING) as problem:
                log.warning("skipping %s %d of %s: %s", self.NOUN, number, self._label, problem.detail)
        return records

    def of_job(self, job: str) -> int | None:
        return next((number for number, record in self.readable().items() if record.job == job), None)

    @contextmanager
    def _publishing(self, job: str | None) -> Iterator[int | None]:
        """Hold the lock of the name, and yield what a job published before."""
        with locked(self._of_name):
            remove_leftovers(self.folder)
            yield None if job is None else self.of_job(job)


class CalibrationStore(NumberedStore[CalibrationRecord]):
    """Calibrations of a version, where 0 is the artifact's own."""

    FOLDER, FILE, SCHEMA, NOUN, MISSING = FOLDER, RECORD, CalibrationRecord, "calibration", CalibrationNotFound

    def __init__(self, root: Path, name: str, version: int, manifest: Callable[[], Manifest]) -> None:
        super().__init__(root, name, version)
        self._manifest = manifest

    def numbers(self) -> list[int]:
        return [OWN, *self.stored()]

    def active(self) -> int:
        """Return the active number, 0 if that is of other weights or deleted; raise ``ArtifactError``."""
        # In this order: a calibration that does not become active writes the choice before its folder appears.
        newest = self.numbers()[-1]
        choice = self._choice()
        number = newest if newest > choice.newest else choice.calibration
        if (problem := self.foreign(number)) is None:
            return number
        _warn_once(problem)
        return OWN

    def foreign(self, number: int) -> str | None:
        """Return a sentence about a calibration of other weights; else None."""
        if number == OWN:
            return None
        try:
            if self.record(number).summary.weights_sha256 == self._manifest().log_dets.weights_sha256:
                return None
        except (ArtifactError, CalibrationNotFound):
            return None  # loading names it
        return (
            f"calibration {number} of {self._label} was made for other weights: these have changed since, and with "
            f"them all scores of {self._label}; calibration {OWN} is used until a new one is made"
        )

    def path(self, number: int) -> Path | None:
        return None if number == OWN else self.folder / str(number)

    def publish(
        self,
        arrays: bytes,
        summary: CalibrationSummary,
        *,
        job: str | None = None,
        activate: bool | None = True,
        before_publish: Callable[[], None] = lambda: None,
    ) -> int:
        """Store a calibration; a job publishes once. ``before_publish`` may raise as the last check.

        With ``activate`` None it becomes active unless a usual false-alarm rate is lost.
        """
        with self._publishing(job) as known:
            if known is not None:
                return known
            before = newest = self.numbers()[-1]
            active, reason = activate is not False, None if activate is not False else NOT_ASKED
            try:
                before, newest = self.active(), max(newest, self._choice().newest)
                if activate is None:
                    active, reason = self._decide(newest + 1, summary, before)
            except ArtifactError as problem:
                # The work of minutes must not be lost for a choice that can be repeated.
                log.warning("the choice of %s is made anew: %s", self._label, problem.detail)
                if activate is None:
                    reason = f"no other was chosen: {problem.detail}"
            # A number is never used again, also where its folder was deleted.
            number = newest + 1
            record = CalibrationRecord(
                created=datetime.now(UTC).replace(microsecond=0),
                job=job,
                summary=summary,
                sha256=hashlib.sha256(arrays).hexdigest(),
                activation=Activation(active=active, reason=reason),
            )
            with new_folder(self.folder / str(number)) as folder:
                (folder / ARRAYS).write_bytes(arrays)
                (folder / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
                before_publish()
                if not active:
                    self._choose(before, number)
            # It is active once its folder exists; with the stored choice its deletion is an error, not another choice.
            self._choose(number if active else before, number)
        return number

    def _decide(self, number: int, new: CalibrationSummary, used: int) -> tuple[bool, str | None]:
        """Return whether a calibration replaces the one in use, and why not, or that this one is damaged."""
        try:
            in_use = (
                self._manifest().calibration if used == OWN else self.checked_record(used, new.weights_sha256).summary
            )
        except (ArtifactError, CalibrationNotFound) as problem:
            log.warning("calibration %d of %s is replaced: %s", used, self._label, problem.detail)
            return True, f"calibration {used}, used so far, is damaged: {problem.detail}"
        reason = coarser(number, new.smallest_p, used, in_use.smallest_p)
        return reason is None, reason

    def checked_record(self, number: int, weights_sha256: str) -> CalibrationRecord:
        """Check the file against the weights; raise ``CalibrationNotFound``, ``ArtifactError``."""
        record = self.record(number)
        check_files(self.folder / str(number), record, weights_sha256)
        return record

    def choose(self, number: int, weights_sha256: str) -> None:
        """Activate a calibration, checked unless it is 0; raise ``CalibrationNotFound``, ``ArtifactError``."""
        with locked(self._of_name):
            if number != OWN:
                self.checked_record(number, weights_sha256)
            newest = self.numbers()[-1]
            try:
                newest = max(newest, self._choice().newest)
            except ArtifactError as problem:
                log.warning("%s is written anew", problem.detail)
            self._choose(number, newest)

    def _choice(self) -> ActiveCalibration:
        if not (path := self.folder / CHOICE).exists():
            return ActiveCalibration()
        return read_json(path, ActiveCalibration, "choice of a calibration")

    def _choose(self, number: int, newest: int) -> None:
        choice = ActiveCalibration(calibration=number, newest=newest)
        write_atomically(self.folder / CHOICE, choice.model_dump_json().encode())


class LimitStore(NumberedStore[LimitRecord]):
    """Detection limits of a version."""

    FOLDER, FILE, SCHEMA, NOUN, MISSING = "limits", "limit.json", LimitRecord, "detection limit", LimitNotFound

    def best(self, calibration: int) -> tuple[int, LimitRecord] | None:
        """Return the newest limit of a calibration, else of all."""
        newest_first = [*reversed(self.readable().items())]
        own = (item for item in newest_first if item[1].calibration == calibration)
        return next(own, next(iter(newest_first), None))

    def publish(self, record: LimitRecord, before_publish: Callable[[], None] = lambda: None) -> int:
        """Store a limit; a job publishes once. ``before_publish`` may raise as the last check."""
        with self._publishing(record.job) as known:
            if known is not None:
                return known
            number = max(self.stored(), default=0) + 1
            with new_folder(self.folder / str(number)) as folder:
                (folder / self.FILE).write_text(record.model_dump_json(indent=1), encoding="utf-8")
                before_publish()
        return number


@lru_cache(maxsize=1024)
def _warn_once(problem: str) -> None:
    log.warning(problem)


def check_files(folder: Path, record: CalibrationRecord, weights_sha256: str) -> None:
    """Raise ``ArtifactError`` for a missing or damaged file, or one of other weights."""
    path = folder / ARRAYS
    check_digest(path, record.sha256, RECORD)
    if record.summary.weights_sha256 != weights_sha256:
        raise ArtifactError(f"{file_label(path)} belongs to other weights than those of the model")


GRADIENTS_IGNORED = (
    "gradient-evidence-ignored: it was also made for verdicts with gradients, which have been removed; verdicts are "
    "those without gradients, whose p-values stay the same. A new calibration has no such evidence"
)


def calibration_bytes(calibration: Calibration) -> bytes:
    return save(to_arrays(calibration))


def save_calibration(calibration: Calibration, path: Path) -> None:
    write_atomically(path, calibration_bytes(calibration))


def load_calibration(path: Path) -> Calibration:
    """Read a calibration; ``ArtifactError`` names a file that is unreadable or incomplete."""
    try:
        return from_arrays(Calibration, read_arrays(path))
    except KeyError as error:
        raise ArtifactError(f"{file_label(path)} lacks {error.args[0]}") from error
    except ValueError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error


def gradient_warning(folder: Path) -> str | None:
    """Return a warning where the calibration in a folder has evidence of gradients, as earlier versions made it."""
    try:
        with safe_open(folder / ARRAYS, "numpy") as arrays:
            return GRADIENTS_IGNORED if "fisher" in arrays.keys() else None  # noqa: SIM118 - it cannot be iterated
    except (OSError, SafetensorError):
        return None  # loading names it


def load_added_calibration(folder: Path, weights_sha256: str) -> tuple[Calibration, CalibrationSummary]:
    """Return an added calibration and its summary; ``ArtifactError`` if damaged or of other weights."""
    record = read_json(folder / RECORD, CalibrationRecord, "calibration")
    check_files(folder, record, weights_sha256)
    calibration = load_calibration(folder / ARRAYS)
    if calibration.images != record.summary.calibration_images:
        expected = record.summary.calibration_images
        raise ArtifactError(f"{file_label(folder / ARRAYS)}: expected {expected} images, got {calibration.images}")
    return calibration, record.summary
