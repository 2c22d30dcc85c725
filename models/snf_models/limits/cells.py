"""Record of the defects measured so far, to resume an interrupted measurement of a detection limit."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snf_models.disk import write_atomically

log = logging.getLogger(__name__)

FILE = "cells.json"


class _Counts(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    plan: str
    found: dict[str, int] = {}
    seconds: float = Field(0.0, ge=0, description="Time that the counts took.")


class CellJournal:
    """Flagged images of each defect, in a JSON file or memory; a damaged file or another plan's counts are ignored."""

    def __init__(self, folder: Path | None, plan: str) -> None:
        self._path = None if folder is None else folder / FILE
        self._counts = self._read(plan)
        self.seconds_before = self._counts.seconds
        self._began = time.monotonic()

    def get(self, key: str) -> int | None:
        return self._counts.found.get(key)

    def put(self, key: str, found: int) -> None:
        self._counts.found[key] = found
        self._counts.seconds = self.seconds_before + time.monotonic() - self._began
        if self._path is not None:
            write_atomically(self._path, self._counts.model_dump_json().encode())

    def _read(self, plan: str) -> _Counts:
        if self._path is None or not self._path.is_file():
            return _Counts(plan=plan)
        try:
            counts = _Counts.model_validate_json(self._path.read_bytes())
        except ValidationError as error:
            log.warning("starting again, because %s is damaged: %s", FILE, error.errors()[0]["msg"])
            return _Counts(plan=plan)
        return counts if counts.plan == plan else _Counts(plan=plan)
