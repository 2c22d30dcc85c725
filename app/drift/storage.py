"""The file that carries the windows of recent p-values over a restart."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.drift.windows import DriftWindows, Key, Reference, Window
from models.atomic_files import remove_leftovers, write_atomically

log = logging.getLogger(__name__)

PValue = Annotated[float, Field(gt=0, le=1)]
Time = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds since 1970 that a calendar has."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StoredWindow(_Stored):
    """One window; `seconds` are whole ones from `start` to each image."""

    source: str | None
    start: Time
    seconds: list[Annotated[int, Field(ge=-(10**9), le=10**9)]]
    p_values: list[PValue] = Field(min_length=1)
    alarm_since: Time | None

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        if len(self.seconds) != len(self.p_values):
            raise ValueError(f"{len(self.p_values)} images need as many times, got {len(self.seconds)}")
        return self


class StoredModel(_Stored):
    """All windows of one calibration of one model version."""

    name: str
    version: int
    calibration: int
    weights: str
    images: int = Field(ge=1)
    smallest_p: PValue
    windows: list[StoredWindow]


class StoredDrift(_Stored):
    """The whole file."""

    format_version: int = Field(1, ge=1, le=1)
    models: list[StoredModel]


def save(windows: DriftWindows, path: Path) -> None:
    """Writes all windows, atomically; raises `OSError`."""
    # Encoded model by model: encoding holds the interpreter, and the event loop has to get its turn.
    models = [_stored(*one).model_dump_json() for one in windows.contents()]
    write_atomically(path, ('{"format_version":1,"models":[' + ",\n".join(models) + "]}\n").encode())


def load(windows: DriftWindows, path: Path) -> None:
    """Puts the windows of a file back; one that is damaged is logged and left, and the windows stay empty."""
    try:
        # Not what another service may be writing now.
        remove_leftovers(path.parent, older_than_s=3600)
        content = StoredDrift.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        log.error("%s cannot be read, drift begins anew: %s", path, error.strerror)
        return
    except ValidationError as error:
        first = error.errors()[0]
        log.error("%s is damaged, drift begins anew: %s: %s", path, first["loc"], first["msg"])
        return
    for one in content.models:
        windows.restore(
            Key(one.name, one.version, one.calibration),
            Reference(one.weights, one.images, one.smallest_p),
            [(window.source, _window(window)) for window in one.windows],
        )


def _stored(key: Key, reference: Reference, windows: list[tuple[str | None, Window]]) -> StoredModel:
    return StoredModel(
        **key._asdict(),
        weights=reference.weights,
        images=reference.images,
        smallest_p=reference.smallest_p,
        windows=[
            StoredWindow(
                source=source,
                start=window.times[0],
                seconds=[round(time - window.times[0]) for time in window.times],
                # Six digits tell the ranks among a hundred thousand calibration images apart.
                p_values=[float(f"{p:.6g}") for p in window.p_values],
                alarm_since=window.alarm_since,
            )
            for source, window in windows
        ],
    )


def _window(stored: StoredWindow) -> Window:
    times = deque(stored.start + after for after in stored.seconds)
    return Window(deque(stored.p_values), times, alarm_since=stored.alarm_since)
