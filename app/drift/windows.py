"""Sliding windows of recent p-values and white levels for drift detection, by model and image source."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from copy import deepcopy

from app.drift.judge import DriftJudge
from app.drift.status import WindowStatus
from app.drift.window import Key, ModelWindows, Window, WindowReference

MAX_MODELS = 64
"""Most model versions with windows; the least recently scored version is dropped first."""

log = logging.getLogger(__name__)


class DriftWindows:
    """In-memory store that keeps p-values and brightness of recently scored images, and tests them for drift.

    The newest images are kept in windows, one for each model and one for each image source.

    An alarm starts where p-values or white levels differ from those of the calibration images. Images are added in
    O(1); windows are tested, and bets are made, on request.

    Every image counts once in the window of all sources and once in that of its source, if it has one. Repeated images
    count every time, because they too change the distribution. May be used from any thread.

    Args:
        images: Most images in a window.
        min_images: Fewest images for a test.
        level: P-value of the Kolmogorov-Smirnov tests at which an alarm starts.
        threshold: Capital of the martingale test at which an alarm starts.
        sources: Most sources of a model; the least recently used is dropped first.
    """

    def __init__(self, *, images: int, min_images: int, level: float, threshold: float, sources: int) -> None:
        self._images = images
        self._judge_window = DriftJudge(min_images, level, threshold).judge
        self._sources = sources
        self._groups: OrderedDict[Key, ModelWindows] = OrderedDict()
        # The event loop waits for the first lock only, which is never held during computations.
        self._lock = threading.Lock()
        self._testing = threading.Lock()
        self._changes = 0

    @property
    def changes(self) -> int:
        """The counter that rises whenever scored images are recorded or dropped for the drift tests.

        A caller sees by it whether the images have changed.
        """
        return self._changes

    def record(
        self,
        key: Key,
        reference: WindowReference,
        source: str | None,
        p_values: Sequence[float],
        now: float,
        white_levels: Sequence[int] = (),
        statistics: Sequence[float] = (),
    ) -> None:
        """Add p-values, brightness and statistics of newly scored images to the windows of their model and source.

        Images without a source count for the model only.

        Args:
            key: The model.
            reference: Facts on its calibration.
            source: Source of the images, or None.
            p_values: P-value of each image.
            now: Time of the scoring, in seconds since 1970.
            white_levels: White level of each image, 0 to 255, where they are known.
            statistics: Anomaly statistic of each image by the first fold, in nats, for the martingale.
        """
        if not p_values:
            return
        with self._lock:
            group = self._groups.get(key)
            dropped: list[str] = []
            if group is None or group.reference != reference:
                dropped = _alarmed(key, group.windows()) if group else []
                group = self._groups[key] = ModelWindows(reference, self._window())
            group.reference = reference
            self._groups.move_to_end(key)
            group.everything.add(p_values, white_levels, statistics, now)
            if source is not None:
                window = group.sources.setdefault(source, self._window())
                window.add(p_values, white_levels, statistics, now)
                group.sources.move_to_end(source)
            dropped += self._keep_limits(key, group)
            self._changes += 1
        for name in dropped:
            log.warning("drift of %s has ended: its window was dropped", name)

    def status(self, key: Key, now: float, weights: str | None = None) -> list[WindowStatus]:
        """Return a list of the current drift test results on a model's recently scored images.

        Those of all sources together come first, then those of each source. The list is empty without images.

        Starts and ends of alarms are logged.

        Args:
            key: The model.
            now: Time in seconds since 1970.
            weights: Digest of the weights, if only windows of these weights are wanted.
        """
        with self._testing:
            with self._lock:
                group = self._groups.get(key)
                if group is None or weights not in (None, group.reference.weights):
                    return []
                windows = list(group.windows())
            return [self._judge(key, group.reference, source, window, now) for source, window in windows]

    def alarms(self, key: Key, weights: str) -> int:
        """Return the number of active drift alarms of a model.

        All sources together and each source may have one. It is the state of the last tests; nothing is tested.

        Args:
            key: The model.
            weights: Digest of the model's weights.
        """
        with self._lock:
            group = self._groups.get(key)
            if group is None or group.reference.weights != weights:
                return 0
            return sum(window.any_alarm_since is not None for _, window in group.windows())

    def reset(self, key: Key, source: str | None, weights: str) -> Window | None:
        """End the drift alarm of a model or image source, and drop its recent images from the drift tests.

        They start anew at the next image. Returns the dropped window, or None if there was none.

        Args:
            key: The model.
            source: Source of the images; None for the window of all sources, which leaves those of the sources.
            weights: Digest of the model's weights.
        """
        with self._testing, self._lock:
            group = self._groups.get(key)
            if group is None or group.reference.weights != weights:
                return None
            if source is not None:
                dropped = group.sources.pop(source, None)
            else:
                dropped, group.everything = group.everything, self._window()
            if dropped is None or not dropped.count:
                return None
            self._changes += 1
            return dropped

    def put_back(self, key: Key, source: str | None, window: Window) -> None:
        """Put back a window of recent images that ``reset`` dropped and returned, to undo the reset.

        Images that were recorded since are dropped.
        """
        with self._testing, self._lock:
            group = self._groups.get(key)
            if group is None:
                return
            if source is None:
                group.everything = window
            else:
                group.sources[source] = window
            self._changes += 1

    def models(self) -> list[Key]:
        """Return a list with the key of each model that has windows of recently scored images.

        A key has model name, version and calibration number.
        """
        with self._lock:
            return list(self._groups)

    def contents(self) -> list[tuple[Key, WindowReference, list[tuple[str | None, Window]]]]:
        """Return copies of the windows of recent images of all models, for storage on disk.

        For each model there are its key, facts about its calibration, and its windows.
        """
        contents = []
        for key in self.models():
            # A model at a time, so that scoring never waits for all of them.
            with self._testing:
                with self._lock:
                    group = self._groups.get(key)
                    if group is None:
                        continue
                    copies = [(source, self._window(window)) for source, window in group.windows()]
                for _, window in copies:
                    window.martingales = deepcopy(window.martingales)
                contents.append((key, group.reference, copies))
        return contents

    def restore(self, key: Key, reference: WindowReference, windows: Sequence[tuple[str | None, Window]]) -> None:
        """Restore a model's windows of recent images, which were loaded from disk, for the drift tests.

        Images that the model already has are replaced.

        The oldest images beyond the size limits are dropped.
        """
        copies = {source: self._window(window) for source, window in windows}
        group = ModelWindows(reference, copies.pop(None) if None in copies else self._window())
        group.sources.update((source, window) for source, window in copies.items() if source is not None)
        with self._lock:
            self._groups[key] = group
            self._keep_limits(key, group)

    def _window(self, content: Window | None = None) -> Window:
        p_values = deque(content.p_values if content else (), self._images)
        times = deque(content.times if content else (), self._images)
        white_levels = deque(content.white_levels if content else (), self._images)
        if content is None:
            return Window(p_values, times, white_levels)
        return Window(p_values, times, white_levels, len(p_values), content.alarm_since, content.martingales)

    def _keep_limits(self, key: Key, group: ModelWindows) -> list[str]:
        """Drop windows past the limits; return the labels of those that had an alarm."""
        dropped = []
        while len(group.sources) > self._sources:
            # An alarm lasts until it is acknowledged, so its source is dropped only if all earlier ones have an alarm.
            *earlier, _ = group.sources
            calm = (source for source in earlier if group.sources[source].any_alarm_since is None)
            oldest = next(calm, earlier[0])
            dropped += _alarmed(key, [(oldest, group.sources.pop(oldest))])
        while len(self._groups) > MAX_MODELS:
            old, forgotten = self._groups.popitem(last=False)
            dropped += _alarmed(old, forgotten.windows())
        return dropped

    def _judge(
        self, key: Key, reference: WindowReference, source: str | None, window: Window, now: float
    ) -> WindowStatus:
        with self._lock:
            count = window.count
            if window.judged is not None and window.judged_at == count:
                return window.judged
            images = window.take()
        status = self._judge_window(window, images, reference, source, label_of(key, source), now)
        window.judged, window.judged_at = status, count
        return status


def _alarmed(key: Key, windows: Iterable[tuple[str | None, Window]]) -> list[str]:
    return [label_of(key, source) for source, window in windows if window.any_alarm_since is not None]


def label_of(key: Key, source: str | None) -> str:
    """Return how log messages name a model and its image source, such as ``parts:1 from line-1``.

    It is the model, followed by the image source if there is one.
    """
    return f"{key}" if source is None else f"{key} from {source}"
