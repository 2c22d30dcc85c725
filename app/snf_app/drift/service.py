"""Watch over the drift of scored images."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from snf_client.schemas.models import Drift
from snf_models.anomaly.exchangeability import BETS, ConformalMartingale, RankCounts
from snf_models.disk import remove_leftovers, write_atomically
from snf_models.registry.registry import ModelVersion
from snf_runtime.anomaly.calibration import CELLS, statistic_cells
from snf_runtime.scoring.evidence import LEVELS
from snf_worker.process_setup import PeriodicThread
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.scorer import Scorer


OFF = 1e300  # threshold without alarms. Capitals are kept as logarithms and may exceed it.


class Key(NamedTuple):
    """Key of a model's streams."""

    name: str
    version: int
    calibration: int

    @classmethod
    def of(cls, version: ModelVersion) -> Self:
        return cls(version.name, version.version, version.calibration)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" + (f" (calibration {self.calibration})" if self.calibration else "")


@dataclass(frozen=True)
class DriftReference:
    """Calibration images, among which the images of streams are ranked.

    Attributes:
        weights: Digest of the weights; a model that was trained again in the same place has another.
        counts: Images in each cell of a quantity: "statistic", in the first fold, and "white-level", which an old
            calibration lacks.
    """

    weights: str
    counts: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, scorer: Scorer) -> Self:
        counts, levels = {"statistic": scorer.calibration.statistic_counts}, scorer.calibration.white_level_counts
        return cls(scorer.log_det_digest, counts if levels is None else {**counts, "white-level": levels})


@dataclass(eq=False)
class Bets:
    """Ranks of the images of a stream by one quantity, and the capital that is bet on them."""

    ranks: RankCounts
    martingale: ConformalMartingale = field(default_factory=ConformalMartingale)


@dataclass(eq=False)
class Stream:
    """All images of one source, or of all sources, since the first or since drift was acknowledged.

    Each of two capitals must reach twice the threshold, so that together they raise a false alarm with a probability of
    at most 1 / threshold. Their mean has no such bound: each is a martingale among its own ranks, not among both.

    Attributes:
        bets: Bets on each quantity of the reference.
        since: Time of the first image, in seconds since 1970.
        alarm_since: Start of the alarm, in seconds since 1970; None without an alarm.
        new_statistics: Anomaly statistics of images without a bet.
        new_white_levels: White levels of images without a bet.
    """

    bets: dict[str, Bets]
    since: float
    alarm_since: float | None = None
    new_statistics: list[float] = field(default_factory=list)
    new_white_levels: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, reference: DriftReference, since: float) -> Self:
        return cls({name: Bets(RankCounts.of(counts)) for name, counts in reference.counts.items()}, since)

    def bet(self) -> None:
        """Rank the new images among all earlier ones, in order of arrival, and bet on their ranks."""
        cells = {
            "statistic": statistic_cells(self.new_statistics),
            "white-level": np.array(self.new_white_levels, dtype=np.int64),
        }
        for name, bets in self.bets.items():
            bets.martingale.bet(bets.ranks.add(cells[name]))
        self.new_statistics, self.new_white_levels = [], []

    def update_alarm(self, threshold: float, label: str, now: float) -> None:
        """Start the alarm where a capital has reached its threshold, or end it where the threshold was raised."""
        status = self.status(None, threshold)
        if threshold >= OFF or status.log10_highest < status.log10_threshold:
            if self.alarm_since is not None:
                log.warning("drift of %s has ended: the threshold of its alarm was raised", label)
            self.alarm_since = None
        elif self.alarm_since is None:
            self.alarm_since = now
            log.warning(
                "%s drifts: its %d images are not exchangeable with the calibration images (%s, capital 10^%.1f)",
                label, status.images, status.quantity, status.log10_highest
            )  # fmt: skip

    def status(self, source: str | None, threshold: float) -> Drift:
        """Return the state for the API; images without a bet are left out."""
        martingales = {name: bets.martingale for name, bets in self.bets.items()}
        quantity = max(martingales, key=lambda name: martingales[name].log_highest)
        return Drift(
            source=source,
            images=martingales["statistic"].images,
            since=self.since,
            quantity=quantity,
            log10_capital=max(martingale.log_capital for martingale in martingales.values()) / math.log(10),
            log10_highest=martingales[quantity].log_highest / math.log(10),
            log10_threshold=math.log10(threshold * len(martingales)),
            alarm=self.alarm_since is not None,
            alarm_since=self.alarm_since,
        )


@dataclass(eq=False)
class ModelStreams:
    """Streams of a model by source, the least recently used first; that of all sources has the key None."""

    reference: DriftReference
    streams: OrderedDict[str | None, Stream] = field(default_factory=OrderedDict)


def label_of(key: Key, source: str | None) -> str:
    """Return how log messages name a stream, such as ``parts:1 from line-1``."""
    return f"{key}" if source is None else f"{key} from {source}"


T = TypeVar("T")

VERSION = 4
"""Format of the file. Version 3 had windows of the newest images beside the bets, earlier ones no such bets."""
MAX_IMAGES = 10**12
Count = Annotated[int, Field(ge=0, le=MAX_IMAGES)]
Time = Annotated[float, Field(ge=0, le=10**11)]  # seconds since 1970, of a year with four digits


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


def save_streams(models: Mapping[Key, ModelStreams], path: Path) -> None:
    """Replace the file; raises ``OSError`` if that fails."""
    # Encoded model by model, because encoding blocks the event loop.
    stored = [StoredModel.of(key, model).model_dump_json() for key, model in models.items()]
    text = f'{{"format_version":{VERSION},"models":[' + ",\n".join(stored) + "]}\n"
    write_atomically(path, text.encode())


def load_streams(path: Path) -> dict[Key, ModelStreams]:
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


EVERY_S = 5.0  # seconds between two updates of the alarms, and between two writes of the file
MAX_MODELS = 64  # most model versions with streams; the least recently scored version is dropped first

log = logging.getLogger(__name__)


class DriftMonitor:
    """Streams of all models, and a thread that bets on new images every 5 s and writes the streams to a file.

    Every image counts in the stream of its source and in that of all sources, repeated images too.

    Each service process has streams of its own requests. Of several services that share a home, a restart continues
    with the streams that were written last.
    """

    def __init__(self, settings: Settings) -> None:
        self._threshold = settings.drift_martingale
        self._max_sources = settings.drift_sources
        self._path = settings.drift_file
        # The event loop appends to it, and never waits for the lock.
        self._recorded: deque[tuple[Key, DriftReference, str, list[float], Sequence[int], float]] = deque()
        self._models: OrderedDict[Key, ModelStreams] = OrderedDict()
        self._lock = threading.Lock()
        self._changed = False
        self._writable = True
        self._thread = PeriodicThread("drift", EVERY_S, self._store_or_log)

    def start(self) -> None:
        """Load the stored streams, and start the thread."""
        self.load()
        self._thread.start()

    def load(self) -> None:
        """Load the stored streams."""
        with self._lock:
            self._models = OrderedDict(load_streams(self._path))
            for key, model in list(self._models.items()):
                for source, stream in model.streams.items():
                    # The threshold may be another one now.
                    stream.update_alarm(self._threshold, label_of(key, source), time.time())
                self._keep_limits(key, model)

    def close(self) -> None:
        """Stop the thread, and store the streams with the images that were scored last."""
        self._thread.stop()
        self._store_or_log()

    def record(
        self,
        key: Key,
        reference: DriftReference,
        source: str,
        statistics: list[float],
        white_levels: Sequence[int] = (),
    ) -> None:
        """Record the first fold's anomaly statistics, and the white levels, of images, without waiting for a bet."""
        if statistics:
            self._recorded.append((key, reference, source, statistics, white_levels, time.time()))

    def of(self, version: ModelVersion) -> list[Drift]:
        """Return the drift of a model version: of all sources together first, then of each.

        Reads the manifest of the version; raises ``ArtifactError``.
        """
        with self._lock:
            model = self._updated(version)
            return [] if model is None else self._states(model)

    def alarms(self, version: ModelVersion) -> int:
        """Return the number of alarms of a model version.

        Reads the manifest of the version; raises ``ArtifactError``.
        """
        return sum(drift.alarm for drift in self.of(version))

    def all(self) -> dict[Key, list[Drift]]:
        """Return the drift of all model versions, as ``of`` does."""
        with self._lock:
            self._update()
            return {key: self._states(model) for key, model in self._models.items()}

    def acknowledge(self, version: ModelVersion, source: str | None, caller: str) -> bool:
        """End the alarm of a source, and drop its stream; another one starts with the next image.

        Returns whether there was one. With None as source it is the stream of all sources together; those of the
        sources stay. If the file cannot be written, nothing changes, and the error is raised.
        """
        with self._lock:
            model = self._updated(version)
            stream = None if model is None else model.streams.pop(source, None)
            if model is None or stream is None:
                return False
            try:
                self._save()
            except (OSError, ValueError):
                model.streams[source] = stream
                raise
        log.warning("%s acknowledged drift of %s: its test starts anew", caller, label_of(Key.of(version), source))
        return True

    def _store_or_log(self) -> None:
        try:
            with self._lock:
                self._update()
                if self._changed:
                    self._save()
        except (OSError, ValueError) as error:
            if self._writable:
                reason = error.strerror if isinstance(error, OSError) else error
                log.error("%s cannot be written, so a restart would forget drift: %s", self._path, reason)
            self._writable = False

    # All below are called with the lock.

    def _save(self) -> None:
        save_streams(self._models, self._path)
        self._changed, self._writable = False, True

    def _states(self, model: ModelStreams) -> list[Drift]:
        found = [stream.status(source, self._threshold) for source, stream in model.streams.items()]
        return sorted(found, key=lambda drift: drift.source is not None)

    def _updated(self, version: ModelVersion) -> ModelStreams | None:
        """Update all streams; return those of a version, None where there are none of its weights."""
        self._update()
        model = self._models.get(Key.of(version))
        same = model is not None and model.reference.weights == version.manifest.log_dets.weights_sha256
        return model if same else None

    def _update(self) -> None:
        """Bet on the recorded images, and start and end alarms."""
        touched: dict[tuple[Key, str | None], Stream] = {}
        while self._recorded:
            key, reference, source, statistics, white_levels, now = self._recorded.popleft()
            model = self._model(key, reference)
            for name in (None, source):
                stream = model.streams[name] = model.streams.get(name) or Stream.start(reference, now)
                model.streams.move_to_end(name)
                stream.new_statistics += statistics
                stream.new_white_levels += white_levels
                touched[key, name] = stream
            self._keep_limits(key, model)
        for (key, name), stream in touched.items():
            stream.bet()
            stream.update_alarm(self._threshold, label_of(key, name), time.time())
        self._changed = self._changed or bool(touched)

    def _model(self, key: Key, reference: DriftReference) -> ModelStreams:
        model = self._models.get(key)
        if model is None or model.reference != reference:
            if model is not None:
                _log_dropped(key, model.streams)
            model = self._models[key] = ModelStreams(reference)
        self._models.move_to_end(key)
        return model

    def _keep_limits(self, key: Key, model: ModelStreams) -> None:
        while len(model.streams) - (None in model.streams) > self._max_sources:
            # An alarm lasts until it is acknowledged, so its source is dropped only if all earlier ones have an alarm.
            *earlier, _ = (source for source in model.streams if source is not None)
            oldest = next((source for source in earlier if model.streams[source].alarm_since is None), earlier[0])
            _log_dropped(key, {oldest: model.streams.pop(oldest)})
        while len(self._models) > MAX_MODELS:
            old, forgotten = self._models.popitem(last=False)
            _log_dropped(old, forgotten.streams)


def _log_dropped(key: Key, streams: Mapping[str | None, Stream]) -> None:
    for source, stream in streams.items():
        if stream.alarm_since is not None:
            log.warning("drift of %s has ended: its images were dropped", label_of(key, source))
