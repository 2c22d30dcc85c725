"""Detection limits, the smallest artificial defects that a model reliably finds, and their store. Free of torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from snf_client.schemas.limits import LimitRecord
from snf_models.artifacts.manifest import file_label
from snf_models.disk import locked, new_folder, remove_leftovers
from snf_models.errors import ArtifactError, LimitNotFound
from snf_models.naming import is_version

log = logging.getLogger(__name__)

FOLDER = "limits"
RECORD = "limit.json"


class LimitStore:
    """Limits in folders ``<version>/<number>/`` that never change. Writers hold the lock of the model's name."""

    def __init__(self, root: Path, name: str, version: int) -> None:
        self.folder = root / name / FOLDER / str(version)
        self._label = f"{name}:{version}"
        self._of_name = root / name

    def numbers(self) -> list[int]:
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in folders if is_version(path.name) and path.is_dir())

    def record(self, number: int) -> LimitRecord:
        """Read a record; raise ``LimitNotFound``, and ``ArtifactError`` for a damaged file."""
        if number not in self.numbers():
            there = ", ".join(map(str, self.numbers())) or "none"
            raise LimitNotFound(f"{self._label} has no detection limit {number}; it has: {there}")
        return read_limit(self.folder / str(number) / RECORD)

    def readable(self) -> dict[int, LimitRecord]:
        """Return undamaged limits by number; log the others."""
        records = {}
        for number in self.numbers():
            try:
                records[number] = self.record(number)
            except (ArtifactError, LimitNotFound) as problem:
                log.warning("skipping detection limit %d of %s: %s", number, self._label, problem.detail)
        return records

    def best(self, calibration: int) -> tuple[int, LimitRecord] | None:
        """Return the newest limit of a calibration, else of all."""
        newest_first = [*reversed(self.readable().items())]
        own = (item for item in newest_first if item[1].calibration == calibration)
        return next(own, next(iter(newest_first), None))

    def of_job(self, job: str) -> int | None:
        return next((number for number, record in self.readable().items() if record.job == job), None)

    def publish(self, record: LimitRecord, before_publish: Callable[[], None] = lambda: None) -> int:
        """Store a limit; a job publishes once. ``before_publish`` may raise as the last check."""
        with locked(self._of_name):
            remove_leftovers(self.folder)
            known = None if record.job is None else self.of_job(record.job)
            if known is not None:
                return known
            number = max(self.numbers(), default=0) + 1
            with new_folder(self.folder / str(number)) as folder:
                (folder / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
                before_publish()
        return number


def read_limit(path: Path) -> LimitRecord:
    """Read a record; raise ``ArtifactError``, which names the file."""
    try:
        return LimitRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{file_label(path)} is not a valid detection limit: {where}: {first['msg']}") from error
