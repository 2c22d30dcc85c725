"""File of the streams, so that drift and its alarms survive a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from snf_app.drift.streams import Bets, DriftReference, Key, ModelStreams, Stream, label_of
from snf_models.anomaly.exchangeability import BETS, ConformalMartingale, RankCounts
from snf_models.disk import remove_leftovers, write_atomically
from snf_runtime.anomaly.calibration import CELLS
from snf_runtime.scoring.evidence import LEVELS

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 4
"""Format of the file. Version 3 had windows of the newest images beside the bets, earlier ones no such bets."""
MAX_IMAGES = 10**12
Count = Annotated[int, Field(ge=0, le=MAX_IMAGES)]
Time = Annotated[float, Field(ge=0, le=10**11)]
"""Seconds since 1970, of a year with four digits."""


class _Stored(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class StoredBets(_Stored):
    """JSON form of ``Bets``; ``seen`` counts the images of the stream alone."""

    seen: list[Count]
    images: Count
    bets: Annotated[list[float], Field(min_length=BETS, max_length=BETS)] | None
    capital: float
    highest: float = Field(ge=0)

    @classmethod
    def of(cls, bets: Bets, calibration: tuple[int, ...]) -> Self:
        state = bets.martingale
        return cls(
            seen=(bets.ranks.counts - np.array(calibration)).tolist(),
            images=state.images,
            bets=state.log_bets.tolist() if state.images else None,  # they are infinite before the first image
            capital=state.log_capital,
            highest=state.log_highest,
        )

    def restored(self, calibration: tuple[int, ...]) -> Bets:
        if len(self.seen) != len(calibration):
            raise ValueError(f"expected counts of {len(calibration)} cells, got {len(self.seen)}")
        bets = Bets(RankCounts(np.array(calibration) + np.array(self.seen), self.images))
        if self.bets is not None:
            bets.martingale = ConformalMartingale(self.images, np.array(self.bets), self.capital, self.highest)
        return bets


class StoredMartingales(_Stored):
    """JSON form of a ``Stream``, by the names of version 3."""

    p_values: StoredBets
    white_levels: StoredBets | None
    since: Time
    alarm_since: Time | None

    @classmethod
    def of(cls, stream: Stream, reference: DriftReference) -> Self:
        bets = {name: StoredBets.of(stream.bets[name], counts) for name, counts in reference.counts.items()}
        statistic, level = bets["statistic"], bets.get("white-level")
        return cls(p_values=statistic, white_levels=level, since=stream.since, alarm_since=stream.alarm_since)

    def restored(self, reference: DriftReference) -> Stream:
        bets = _given({"statistic": self.p_values, "white-level": self.white_levels})
        if bets.keys() != reference.counts.keys():
            raise ValueError("expected bets on white levels exactly where the calibration has them")
        restored = {name: stored.restored(reference.counts[name]) for name, stored in bets.items()}
        return Stream(restored, self.since, self.alarm_since)


class StoredStream(_Stored):
    """A stream with its source; None for all sources."""

    source: str | None
    martingales: StoredMartingales | None  # None in version 3 where the test was turned off
    alarm_since: Time | None = Field(None, exclude=True)  # of the tests of the newest images, which version 3 had


class StoredModel(_Stored):
    """JSON form of ``ModelStreams`` and their key."""

    name: str
    version: int
    calibration: int
    weights: str
    statistics: Annotated[tuple[Count, ...], Field(min_length=CELLS, max_length=CELLS)] | None  # None in version 3
    white_levels: Annotated[tuple[Count, ...], Field(min_length=LEVELS, max_length=LEVELS)] | None
    streams: list[StoredStream] = Field(validation_alias=AliasChoices("streams", "windows"))

    @classmethod
    def of(cls, key: Key, model: ModelStreams) -> Self:
        reference = model.reference
        return cls(
            **key._asdict(),
            weights=reference.weights,
            statistics=reference.counts["statistic"],
            white_levels=reference.counts.get("white-level"),
            streams=[
                StoredStream(source=source, martingales=StoredMartingales.of(stream, reference))
                for source, stream in model.streams.items()
            ],
        )

    def restored(self, key: Key) -> ModelStreams:
        counts = _given({"statistic": self.statistics, "white-level": self.white_levels})
        model = ModelStreams(DriftReference(self.weights, counts))
        for stored in self.streams:
            if stored.martingales is not None:
                model.streams[stored.source] = stored.martingales.restored(model.reference)
            if stored.alarm_since is not None:
                log.warning("drift of %s has ended: the test that raised it was removed", label_of(key, stored.source))
        return model


def _given(values: dict[str, T | None]) -> dict[str, T]:
    return {name: value for name, value in values.items() if value is not None}


class _StoredDrift(_Stored):
    models: list[StoredModel]


class _StoredVersion(_Stored):
    format_version: int = Field(ge=1, le=VERSION)


def save(models: Mapping[Key, ModelStreams], path: Path) -> None:
    """Replace the file; raises ``OSError`` if that fails."""
    # Encoded model by model, because encoding blocks the event loop.
    stored = [StoredModel.of(key, model).model_dump_json() for key, model in models.items()]
    text = f'{{"format_version":{VERSION},"models":[' + ",\n".join(stored) + "]}\n"
    write_atomically(path, text.encode())


def load(path: Path) -> dict[Key, ModelStreams]:
    """Read the file; damage, and what an earlier version has stored otherwise, is left out and logged."""
    try:
        # Recent leftovers may be in use by another service.
        remove_leftovers(path.parent, older_than_s=3600)
        content = path.read_bytes()
        version = _StoredVersion.model_validate_json(content).format_version
        if version < 3:
            log.warning("%s is of an earlier version, so drift starts without history", path)
            return {}
        stored = _StoredDrift.model_validate_json(content)
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.error("%s cannot be read, so drift starts without history: %s", path, error.strerror)
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        log.error("%s is damaged, so drift starts without history: %s: %s", path, first["loc"], first["msg"])
        return {}
    found = {}
    for model in stored.models:
        key = Key(model.name, model.version, model.calibration)
        try:
            restored = model.restored(key)
            if restored.streams:
                found[key] = restored
        except ValueError as error:
            log.error("%s is damaged, so drift of %s starts without history: %s", path, key, error)
    return found
