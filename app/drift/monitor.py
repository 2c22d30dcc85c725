"""Watches whether what comes in still looks like the images that the models were calibrated on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from app.drift import storage as drift_file
from app.drift.windows import DriftWindows, Key, Reference, Seen
from app.registry.model_pool import Loaded
from models.registry.version import ModelVersion
from worker.settings import Settings

EVERY_S = 5.0
"""Time between two looks at what has changed, and between two writings of it."""

SOURCE = r"^[A-Za-z0-9][A-Za-z0-9._:/ -]{0,63}$"
"""Labels of sources: a camera, a line, a lot."""

log = logging.getLogger(__name__)


class DriftMonitor:
    """The windows of one service process, and the thread that looks at them and keeps them.

    The windows are those of this process. Of several services that share one home each sees its own requests, and the
    windows of the one that wrote last are those that a restart finds.
    """

    def __init__(self, settings: Settings) -> None:
        self._windows = DriftWindows(
            images=settings.drift_images,
            min_images=settings.drift_min_images,
            level=settings.drift_alarm,
            sources=settings.drift_sources,
        )
        self._path = settings.drift_file
        self._kept = 0
        self._writable = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="drift", daemon=True)

    def start(self) -> None:
        """Takes up what the last process left, and starts to look."""
        drift_file.load(self._windows, self._path)
        self._thread.start()

    def close(self) -> None:
        """Ends looking, and keeps what there is."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._keep()

    def record(self, loaded: Loaded, source: str | None, p_values: Sequence[float]) -> None:
        """Takes in the p-values of the images of a request that were scored; never blocks for long."""
        summary = loaded.scorer.calibration_summary
        reference = Reference(loaded.scorer.log_det_digest, summary.calibration_images, loaded.scorer.smallest_p)
        self._windows.record(key_of(loaded.version), reference, source, p_values, time.time())

    def of(self, version: ModelVersion) -> list[Seen]:
        """The windows of a version, all images together first; raises `ArtifactError`, reads the manifest."""
        return self._windows.look(key_of(version), time.time(), version.manifest.log_dets.weights_sha256)

    def all(self) -> dict[Key, list[Seen]]:
        """The windows of every version that has any."""
        return {key: self._windows.look(key, time.time()) for key in self._windows.models()}

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._keep()
            except Exception:
                # A thread that is gone would keep nothing more, and say nothing.
                log.exception("drift could not be looked at")

    def _keep(self) -> None:
        changes = self._windows.changes
        if changes == self._kept:
            return
        # So that an alarm is in the log though nobody asks.
        self.all()
        try:
            drift_file.save(self._windows, self._path)
        except OSError as error:
            if self._writable:
                log.error("%s cannot be written, a restart would forget drift: %s", self._path, error.strerror)
            self._writable = False
            return
        self._kept, self._writable = changes, True


def key_of(version: ModelVersion) -> Key:
    """Whose p-values a version's images have."""
    return Key(version.name, version.version, version.calibration)
