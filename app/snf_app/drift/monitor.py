"""Watch over the drift of scored images."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

from snf_app.drift import storage
from snf_app.drift.streams import DriftReference, Key, ModelStreams, Stream, label_of
from snf_client.schemas.models import Drift
from snf_models.registry.registry import ModelVersion
from snf_worker.settings import Settings

EVERY_S = 5.0
"""Seconds between two updates of the alarms, and between two writes of the file."""
MAX_MODELS = 64
"""Most model versions with streams; the least recently scored version is dropped first."""

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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="drift", daemon=True)

    def start(self) -> None:
        """Load the stored streams, and start the thread."""
        self.load()
        self._thread.start()

    def load(self) -> None:
        """Load the stored streams."""
        with self._lock:
            self._models = OrderedDict(storage.load(self._path))
            for key, model in list(self._models.items()):
                for source, stream in model.streams.items():
                    # The threshold may be another one now.
                    stream.update_alarm(self._threshold, label_of(key, source), time.time())
                self._keep_limits(key, model)

    def close(self) -> None:
        """Stop the thread, and store the streams with the images that were scored last."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
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

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._store_or_log()
            except Exception:
                # Without the thread nothing would be stored any more.
                log.exception("drift could not be checked")

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
        storage.save(self._models, self._path)
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
