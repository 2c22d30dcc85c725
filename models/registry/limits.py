"""Storage of the detection limits that were measured for a model version.

They are numbered from 1. Free of torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from models.artifacts.detection_limit import LimitRecord
from models.artifacts.manifest import file_label
from models.atomic_files import locked, new_folder, remove_leftovers
from models.errors import ArtifactError, LimitNotFound
from models.naming import is_version

log = logging.getLogger(__name__)

FOLDER = "limits"
RECORD = "limit.json"


class LimitStore:
    """Storage on disk for a model version's measured detection limits (smallest reliably found defects).

    Each limit records the number of the calibration that it was measured with.

    A limit is a folder, ``root/<name>/limits/<version>/<number>/``, that appears atomically and never changes. Readers
    need no lock; writers hold the lock of the model's name.
    """

    def __init__(self, root: Path, name: str, version: int) -> None:
        self.folder = root / name / FOLDER / str(version)
        self._label = f"{name}:{version}"
        self._of_name = root / name

    def numbers(self) -> list[int]:
        """Return the identifying numbers of all detection limits measured for the model, in ascending order.

        A detection limit is the size of the smallest defects that the model reliably finds. The list is empty if none
        was measured.
        """
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in folders if is_version(path.name) and path.is_dir())

    def record(self, number: int) -> LimitRecord:
        """Return one record of detection limits (smallest reliably found defects), given its number.

        Raises ``LimitNotFound``, and ``ArtifactError`` for a damaged file.
        """
        if number not in self.numbers():
            there = ", ".join(map(str, self.numbers())) or "none"
            raise LimitNotFound(f"{self._label} has no detection limit {number}; it has: {there}")
        return read_limit(self.folder / str(number) / RECORD)

    def readable(self) -> dict[int, LimitRecord]:
        """Return all undamaged records of detection limits as a dict by number, in ascending order.

        Damaged limits are logged and left out.
        """
        records = {}
        for number in self.numbers():
            try:
                records[number] = self.record(number)
            except (ArtifactError, LimitNotFound) as problem:
                log.warning("skipping detection limit %d of %s: %s", number, self._label, problem.detail)
        return records

    def best(self, calibration: int) -> tuple[int, LimitRecord] | None:
        """Return the number and the record of the newest detection limit measured with a given calibration.

        If the calibration has no limit, the newest limit of all is returned; None if there is none.
        """
        newest_first = [*reversed(self.readable().items())]
        own = (item for item in newest_first if item[1].calibration == calibration)
        return next(own, next(iter(newest_first), None))

    def of_job(self, job: str) -> int | None:
        """Return the number of the detection limit that a job measured.

        ``job`` is the id of the job. Returns None if the job measured no limit.
        """
        return next((number for number, record in self.readable().items() if record.job == job), None)

    def publish(self, record: LimitRecord, before_publish: Callable[[], None] = lambda: None) -> int:
        """Store a detection limit under the next free number, and return the number.

        The limit gets a new folder. Readers see either all of it or nothing.

        Args:
            record: The limit. A job publishes once: the number of an earlier limit of the job is returned.
            before_publish: Called when nothing else can prevent the publication; it may raise to stop it.
        """
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
    """Read the record of a model's detection limits, the smallest defects that it finds, from its JSON file.

    Raises ``ArtifactError``, which names the file.
    """
    try:
        return LimitRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{file_label(path)} is not a valid detection limit: {where}: {first['msg']}") from error
