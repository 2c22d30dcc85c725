"""Storage of the windows of recently scored images in a file, so that drift detection survives a restart."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.drift.stream_martingales import StreamBets, StreamMartingales
from app.drift.window import Key, Window, WindowReference
from app.drift.windows import DriftWindows
from models.anomaly.conformal_martingale import BETS, ConformalMartingale
from models.atomic_files import remove_leftovers, write_atomically
from snf_runtime.anomaly.conformal import CELLS

log = logging.getLogger(__name__)

PValue = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[int, Field(ge=0, le=255)]
LATEST = 10**11
Time = Annotated[float, Field(ge=0, le=LATEST)]
"""Seconds since 1970, of a year with four digits."""


MOST = 10**12
"""Most images that a file may count."""
Count = Annotated[int, Field(ge=0, le=MOST)]


class _DriftRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StoredBets(_DriftRecord):
    """JSON form of a martingale test, whose betting capital tends to grow if p-values or brightness drift.

    It has the number of images in each cell, and the logarithms of the capital.
    """

    seen: list[Count]
    images: Count
    bets: Annotated[list[float], Field(min_length=BETS, max_length=BETS)] | None
    capital: float
    highest: float = Field(ge=0)

    @classmethod
    def of(cls, stream: StreamBets) -> Self:
        """Convert the state of a martingale drift test, such as image counts and betting capital, to its JSON form.

        Before the first image, ``bets`` is None.
        """
        state = stream.martingale
        return cls(
            seen=stream.seen.tolist(),
            images=state.images,
            bets=state.log_bets.tolist() if state.images else None,
            capital=state.log_capital,
            highest=state.log_highest,
        )

    def put_into(self, stream: StreamBets) -> None:
        """Copy the saved state of a drift test, such as image counts, into ``stream``, a newly started test.

        The test bets on the ranks of the images. Its bets and their capital are copied, too, if there are any.

        Raises ``ValueError`` if the number of cells differs.
        """
        if len(self.seen) != len(stream.unseen):
            raise ValueError(f"expected counts of {len(stream.unseen)} cells, got {len(self.seen)}")
        stream.ranks.counts += np.array(self.seen, dtype=np.int64)
        stream.ranks.images = self.images
        if self.bets is not None:
            state = np.array(self.bets)
            stream.martingale = ConformalMartingale(self.images, state, self.capital, self.highest)


class StoredMartingales(_DriftRecord):
    """JSON form of the martingale tests, sequential betting tests for drift in a stream of images.

    It has their bets, the time of the first image, and the start of the alarm if there is one.
    """

    # A name of earlier services: it stays as it is.
    p_values: StoredBets
    white_levels: StoredBets | None
    since: Time
    alarm_since: Time | None

    @classmethod
    def of(cls, stored: StreamMartingales) -> Self:
        """Convert the martingale drift tests on a stream of images to their JSON form."""
        levels = None if stored.white_levels is None else StoredBets.of(stored.white_levels)
        return cls(
            p_values=StoredBets.of(stored.statistics),
            white_levels=levels,
            since=stored.since,
            alarm_since=stored.alarm_since,
        )

    def restored(self, reference: WindowReference) -> StreamMartingales:
        """Rebuild the martingale tests for drift in a stream of images from this JSON form.

        Raises ``ValueError`` if they do not match the calibration.
        """
        martingales = reference.martingales(self.since)
        if (self.white_levels is None) != (martingales.white_levels is None):
            raise ValueError("expected bets on white levels exactly where the calibration has them")
        self.p_values.put_into(martingales.statistics)
        if self.white_levels is not None and martingales.white_levels is not None:
            self.white_levels.put_into(martingales.white_levels)
        martingales.alarm_since = self.alarm_since
        return martingales


class StoredWindow(_DriftRecord):
    """JSON form of a ``Window``, the sliding window of a model's newest scored images for drift tests.

    It has their p-values, white levels and times.

    Attributes:
        source: Label of the source; None for all sources.
        start: Time of the oldest image, in seconds since 1970.
        seconds: Whole seconds from ``start`` to each image; decades where the clock was set from 1970 meanwhile.
        p_values: P-value of each image.
        white_levels: White level of each image, 0 to 255; fewer, or none, in files of earlier services.
        alarm_since: Start of the alarm of the newest images, in seconds since 1970; None without an alarm.
        martingales: The martingale test of all images; None in files of earlier services.
    """

    source: str | None
    start: Time
    seconds: list[Annotated[int, Field(ge=-LATEST, le=LATEST)]]
    p_values: list[PValue] = Field(min_length=1)
    white_levels: list[Level] = []
    alarm_since: Time | None
    martingales: StoredMartingales | None = None

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        if len(self.seconds) != len(self.p_values):
            raise ValueError(f"expected {len(self.p_values)} times, one per p-value, got {len(self.seconds)}")
        return self


class StoredModel(_DriftRecord):
    """Stored drift data of a model version: the p-values of images that it scored lately, in JSON form.

    They belong to one calibration and are grouped by image source.
    """

    name: str
    version: int
    calibration: int
    weights: str
    images: int = Field(ge=1, le=MOST)
    smallest_p: PValue
    white_levels: Annotated[list[Count], Field(min_length=256, max_length=256)] | None = None
    ranked: bool = Field(True, exclude=True)  # of files up to version 2
    statistics: Annotated[list[Count], Field(min_length=CELLS, max_length=CELLS)] | None = None
    windows: list[StoredWindow]

    @property
    def reference(self) -> WindowReference:
        """The properties of the model's calibration that drift tests need, such as its number of images.

        They include the digest of the model's weights.
        """
        levels, statistics = (None if of is None else tuple(of) for of in (self.white_levels, self.statistics))
        return WindowReference(self.weights, self.images, self.smallest_p, levels, statistics)


class StoredDrift(_DriftRecord):
    """Content of the JSON file that keeps p-values for the drift tests across restarts of the service.

    It has those of all models.
    """

    format_version: int = Field(3, ge=1, le=3)
    models: list[StoredModel]


def save(windows: DriftWindows, path: Path) -> None:
    """Write the drift data of all models, such as p-values of recent images, to a JSON file.

    The file is replaced atomically. Raises ``OSError`` if that fails.
    """
    # Encoded model by model, because encoding blocks the event loop.
    models = [_stored(*content).model_dump_json() for content in windows.contents()]
    write_atomically(path, ('{"format_version":3,"models":[' + ",\n".join(models) + "]}\n").encode())


def load(windows: DriftWindows, path: Path) -> None:
    """Load each model's recent p-values and drift tests into ``windows`` from the file that ``save`` wrote.

    A missing or damaged file leaves ``windows`` empty; damage is logged.
    """
    try:
        # Recent leftovers may be in use by another service.
        remove_leftovers(path.parent, older_than_s=3600)
        content = StoredDrift.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        log.error("%s cannot be read, so drift starts without history: %s", path, error.strerror)
        return
    except ValidationError as error:
        first = error.errors()[0]
        log.error("%s is damaged, so drift starts without history: %s: %s", path, first["loc"], first["msg"])
        return
    for model in content.models:
        key, reference = Key(model.name, model.version, model.calibration), model.reference
        try:
            restored = [
                (window.source, _window(window, reference, content.format_version))
                for window in model.windows
                # Until version 2 images without a source were in the window of all.
                if content.format_version > 1 or window.source is not None
            ]
        except ValueError as error:
            log.error("%s is damaged, so drift of %s starts without history: %s", path, key, error)
            continue
        if restored:
            windows.restore(key, reference, restored)


def _stored(key: Key, reference: WindowReference, windows: list[tuple[str | None, Window]]) -> StoredModel:
    return StoredModel(
        **key._asdict(),
        weights=reference.weights,
        images=reference.images,
        smallest_p=reference.smallest_p,
        white_levels=None if reference.white_levels is None else list(reference.white_levels),
        statistics=None if reference.statistics is None else list(reference.statistics),
        windows=[
            StoredWindow(
                source=source,
                start=window.times[0],
                seconds=[round(time - window.times[0]) for time in window.times],
                # Six digits distinguish the ranks among a hundred thousand calibration images.
                p_values=[float(f"{p:.6g}") for p in window.p_values],
                white_levels=list(window.white_levels),
                alarm_since=window.alarm_since,
                martingales=None if window.martingales is None else StoredMartingales.of(window.martingales),
            )
            for source, window in windows
        ],
    )


def _window(stored: StoredWindow, reference: WindowReference, version: int) -> Window:
    # Until version 3 bets were on other ranks: they start anew with the next image.
    martingales = None if version < 3 else stored.martingales
    return Window(
        deque(stored.p_values),
        deque(stored.start + after for after in stored.seconds),
        deque(stored.white_levels),
        alarm_since=stored.alarm_since,
        martingales=None if martingales is None else martingales.restored(reference),
    )
