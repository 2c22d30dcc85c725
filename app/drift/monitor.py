"""Drift monitoring: p-values and brightness of scored images are tested against calibration images.

The measure of brightness is the white level.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from app.drift import storage
from app.drift.status import WindowStatus
from app.drift.window import Key, WindowReference
from app.drift.windows import DriftWindows, label_of
from app.registry.loaded import Loaded
from models.registry.version import ModelVersion
from snf_runtime.anomaly.verdict import Verdict
from worker.settings import Settings

EVERY_S = 5.0
"""Seconds between two checks for drift, and between two writes of the windows."""

log = logging.getLogger(__name__)


class DriftMonitor:
    """Background thread that tests scored images for drift every 5 s.

    The images of each model are compared with its calibration images.

    Each service process has windows of its own requests. Of several services that share a home, a restart continues
    with the windows that were written last.
    """

    def __init__(self, settings: Settings) -> None:
        self._windows = DriftWindows(
            images=settings.drift_images,
            min_images=settings.drift_min_images,
            level=settings.drift_alarm,
            threshold=settings.drift_martingale,
            sources=settings.drift_sources,
        )
        self._path = settings.drift_file
        self._stored_changes = 0
        self._writable = True
        self._storing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="drift", daemon=True)

    def start(self) -> None:
        """Load saved p-values of recently scored images, and start the thread that tests for drift."""
        storage.load(self._windows, self._path)
        self._thread.start()

    def close(self) -> None:
        """Stop the background thread of the drift tests, and save the p-values of recently scored images.

        It waits for the thread to end. P-values that were added since the last test are tested and saved.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._check_and_store_or_log()

    def record(
        self, loaded: Loaded, source: str, verdicts: Sequence[Verdict], white_levels: Sequence[int] = ()
    ) -> None:
        """Record the verdicts and brightness of newly scored images for the next drift test.

        The call does not wait for a test.

        Args:
            loaded: The model that scored.
            source: Label of the images' source, such as a camera.
            verdicts: Verdicts on the images.
            white_levels: White levels of the images, 0 to 255.
        """
        scorer = loaded.scorer
        reference = WindowReference(
            scorer.log_det_digest,
            scorer.calibration_summary.calibration_images,
            scorer.smallest_p,
            scorer.calibration.white_level_counts,
            scorer.calibration.statistic_counts,
        )
        p_values = [verdict.p_value for verdict in verdicts]
        statistics = [verdict.first_fold_statistic for verdict in verdicts]
        self._windows.record(key_of(loaded.version), reference, source, p_values, time.time(), white_levels, statistics)

    def of(self, version: ModelVersion) -> list[WindowStatus]:
        """Return a list of a model version's current drift test results, computed from recently scored images.

        Those of all sources together come first, then those of each.

        Reads the manifest of the version; raises ``ArtifactError``.
        """
        return self._windows.status(key_of(version), time.time(), version.manifest.log_dets.weights_sha256)

    def alarms(self, version: ModelVersion) -> int:
        """Return the number of active drift alarms of a model version.

        It is that of the last tests, up to 5 s ago. Nothing is tested.

        Reads the manifest of the version; raises ``ArtifactError``.
        """
        return self._windows.alarms(key_of(version), version.manifest.log_dets.weights_sha256)

    def all(self) -> dict[Key, list[WindowStatus]]:
        """Return a dict of drift test results by model version, for all versions with recently scored images.

        For each version there are those of all sources together, then those of each.
        """
        return {key: self._windows.status(key, time.time()) for key in self._windows.models()}

    def acknowledge(self, version: ModelVersion, source: str | None, caller: str) -> bool:
        """Acknowledge drift of an image source: end its alarm, and drop the source's recent images from the tests.

        With None as source, those of all sources together are deleted. Returns whether there was a window of recent
        images.

        It starts anew at the next image, also after a restart. If that cannot be stored, nothing changes. Reads the
        manifest of the version.

        Args:
            version: The model version.
            source: Label of the source; None for all sources together, which leaves the windows of the sources.
            caller: Name of the caller, for the log.

        Raises:
            OSError: The file of the windows cannot be written.
            ValueError: The windows do not fit their file, by a fault of the service.
        """
        key = key_of(version)
        dropped = self._windows.reset(key, source, version.manifest.log_dets.weights_sha256)
        if dropped is None:
            return False
        try:
            self._check_and_store()
        except (OSError, ValueError):
            self._windows.put_back(key, source, dropped)
            raise
        log.warning("%s acknowledged drift of %s: its window starts anew", caller, label_of(key, source))
        return True

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._check_and_store_or_log()
            except Exception:
                # Without the thread nothing would be stored any more.
                log.exception("drift could not be checked")

    def _check_and_store_or_log(self) -> None:
        try:
            self._check_and_store()
        except (OSError, ValueError) as error:
            if self._writable:
                reason = error.strerror if isinstance(error, OSError) else error
                log.error("%s cannot be written, so a restart would forget drift: %s", self._path, reason)
            self._writable = False

    def _check_and_store(self) -> None:
        with self._storing:
            changes = self._windows.changes
            if changes == self._stored_changes:
                return
            # Logs alarms that start or end.
            self.all()
            storage.save(self._windows, self._path)
            self._stored_changes, self._writable = changes, True


def key_of(version: ModelVersion) -> Key:
    """Return the key of a model version in the drift data: model name, version and calibration number."""
    return Key(version.name, version.version, version.calibration)
