"""Sliding windows over p-values and white levels of the newest images of each model, in total and by source."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from models.anomaly.drift import LevelDrift, drift_test, level_test, low_share

MAX_MODELS = 64
"""Most model versions with windows; the least recently scored version is dropped first."""
CALM = 10.0
"""An alarm ends past this multiple of the threshold, so that it does not flicker at the edge."""

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Key of a group of recent p-values: the model's name, its version, and the number of its calibration."""

    name: str
    version: int
    calibration: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" + (f" (calibration {self.calibration})" if self.calibration else "")


@dataclass(frozen=True)
class WindowReference:
    """Facts on a calibration for the drift tests, with the digest of the weights.

    Attributes:
        weights: Digest of the weights; a model that was trained again in the same place has another.
        images: Number of calibration images.
        smallest_p: Smallest p-value that the calibration can give.
        white_levels: Number of calibration images of each white level, 0 to 255; None in an old calibration.
    """

    weights: str
    images: int
    smallest_p: float
    white_levels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class WindowStatus:
    """Result of Kolmogorov-Smirnov tests on the newest images of a model or source: distance, p-value and alarm.

    Attributes:
        source: Label of the source; None for all images.
        images: Number of images in the window.
        statistic: Kolmogorov-Smirnov distance of the p-values from calibration; None while there are too few images.
        p_value: P-value of that distance; None while there are too few images.
        white_level: The same of the white levels; None also where the calibration has none.
        low_share: Share of images with a p-value of 0.05 or less.
        alarm: Whether the window has drifted.
        since: Time of the oldest image, in seconds since 1970.
        alarm_since: Start of the alarm, in seconds since 1970; None without an alarm.
    """

    source: str | None
    images: int
    statistic: float | None
    p_value: float | None
    white_level: LevelDrift | None
    low_share: float
    alarm: bool
    since: float
    alarm_since: float | None


@dataclass(eq=False)
class Window:
    """Bounded queues of the p-values, white levels and times of the newest images, with the last test result.

    There may be fewer white levels: files of earlier services have none.
    """

    p_values: deque[float]
    times: deque[float]
    white_levels: deque[int]
    count: int = 0
    alarm_since: float | None = None
    judged_at: int = -1
    judged: WindowStatus | None = None

    def add(self, p_values: Iterable[float], white_levels: Iterable[int], now: float) -> None:
        """Append p-values and levels with the time ``now``, in seconds since 1970; full queues drop the oldest."""
        self.white_levels.extend(white_levels)
        for p in p_values:
            self.p_values.append(p)
            self.times.append(now)
            self.count += 1


@dataclass(eq=False)
class ModelWindows:
    """The newest images of one model: a window of all its images, and one of each image source."""

    reference: WindowReference
    everything: Window
    sources: OrderedDict[str, Window] = field(default_factory=OrderedDict)

    def windows(self) -> Iterator[tuple[str | None, Window]]:
        """Yield pairs of image source and window: first None for all images, then each source."""
        yield None, self.everything
        yield from self.sources.items()


class DriftWindows:
    """The newest images of all models, in windows by model and image source, and tests for their drift.

    An alarm starts where p-values or white levels differ from those of the calibration images. Images are added in
    O(1); windows are tested on request.

    Every image counts once in the window of all images and once in that of its source, if it has one. Repeated images
    count every time, because they too change the distribution. May be used from any thread.

    Args:
        images: Most images in a window.
        min_images: Fewest images for a test.
        level: P-value of the drift test at which an alarm starts.
        sources: Most sources of a model; the least recently used is dropped first.
    """

    def __init__(self, *, images: int, min_images: int, level: float, sources: int) -> None:
        self._images = images
        self._min_images = min_images
        self._level = level
        self._sources = sources
        self._groups: OrderedDict[Key, ModelWindows] = OrderedDict()
        # The event loop waits for the first lock only, which is never held during computations.
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._changes = 0

    @property
    def changes(self) -> int:
        """A counter that rises whenever scored images are recorded, so that a caller sees whether any were."""
        return self._changes

    def record(
        self,
        key: Key,
        reference: WindowReference,
        source: str | None,
        p_values: Sequence[float],
        now: float,
        white_levels: Sequence[int] = (),
    ) -> None:
        """Add newly scored images to the window of their model, and to that of their source if they have one.

        Args:
            key: The model.
            reference: Facts on its calibration.
            source: Source of the images, or None.
            p_values: P-value of each image.
            now: Time of the scoring, in seconds since 1970.
            white_levels: White level of each image, 0 to 255, where they are known.
        """
        if not p_values:
            return
        with self._lock:
            group = self._groups.get(key)
            dropped: list[str] = []
            if group is None or group.reference != reference:
                dropped = _alarmed(key, group.windows()) if group else []
                group = self._groups[key] = ModelWindows(reference, self._window())
            self._groups.move_to_end(key)
            group.everything.add(p_values, white_levels, now)
            if source is not None:
                window = group.sources.setdefault(source, self._window())
                window.add(p_values, white_levels, now)
                group.sources.move_to_end(source)
            dropped += self._keep_limits(key, group)
            self._changes += 1
        for name in dropped:
            log.warning("drift of %s has ended: its window was dropped", name)

    def status(self, key: Key, now: float, weights: str | None = None) -> list[WindowStatus]:
        """Return Kolmogorov-Smirnov tests of a model's recent images: of all images first, then of each source.

        Starts and ends of alarms are logged.

        Args:
            key: The model.
            now: Time in seconds since 1970.
            weights: Digest of the weights, if only windows of these weights are wanted.
        """
        with self._looking:
            with self._lock:
                group = self._groups.get(key)
                if group is None or weights not in (None, group.reference.weights):
                    return []
                windows = list(group.windows())
            return [self._judge(key, group.reference, source, window, now) for source, window in windows]

    def models(self) -> list[Key]:
        """Return the keys (model name, version, calibration number) for which there are recent p-values."""
        with self._lock:
            return list(self._groups)

    def contents(self) -> list[tuple[Key, WindowReference, list[tuple[str | None, Window]]]]:
        """Return each model's key, calibration facts and copied windows, so that they can be written to disk."""
        contents = []
        for key in self.models():
            # A model at a time, so that scoring never waits for all of them.
            with self._lock:
                group = self._groups.get(key)
                if group is not None:
                    copies = [(source, self._window(window)) for source, window in group.windows()]
                    contents.append((key, group.reference, copies))
        return contents

    def restore(self, key: Key, reference: WindowReference, windows: Sequence[tuple[str | None, Window]]) -> None:
        """Replace a model's windows by stored ones; the oldest images beyond the size limits are dropped."""
        copies = {source: self._window(window) for source, window in windows}
        if None not in copies:
            return
        group = ModelWindows(reference, copies.pop(None))
        group.sources.update((source, window) for source, window in copies.items() if source is not None)
        with self._lock:
            self._groups[key] = group
            self._keep_limits(key, group)

    def _window(self, content: Window | None = None) -> Window:
        p_values = deque(content.p_values if content else (), self._images)
        times = deque(content.times if content else (), self._images)
        white_levels = deque(content.white_levels if content else (), self._images)
        return Window(p_values, times, white_levels, len(p_values), content.alarm_since if content else None)

    def _keep_limits(self, key: Key, group: ModelWindows) -> list[str]:
        """Drop windows past the limits; return the labels of those that had an alarm."""
        dropped = []
        while len(group.sources) > self._sources:
            dropped += _alarmed(key, [group.sources.popitem(last=False)])
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
            p_values, since, levels = list(window.p_values), window.times[0], list(window.white_levels)
        statistic = p_value = white_level = None
        alarm = False
        level = self._level if window.alarm_since is None else min(1.0, CALM * self._level)
        if reference.white_levels is not None and len(levels) >= self._min_images:
            # Two tests share the rate of false alarms.
            level /= 2
            white_level = level_test(levels, reference.white_levels)
        if len(p_values) >= self._min_images:
            result = drift_test(p_values, reference.images, reference.smallest_p, level)
            statistic, p_value, alarm = result.statistic, result.p_value, result.alarm
        of_p_values = alarm
        alarm = alarm or (white_level is not None and white_level.p_value <= level)
        share = low_share(p_values)
        if alarm and window.alarm_since is None:
            window.alarm_since = now
            label = _label(key, source)
            if of_p_values:
                log.warning(
                    "%s drifts: its last %d images differ from the calibration images (p = %.1e, D = %.3f, %.1f %% "
                    "with a p-value of 0.05 or less)", label, len(p_values), p_value, statistic, 100 * share
                )  # fmt: skip
            else:
                assert white_level is not None
                log.warning(
                    "%s drifts: the light of its last %d images differs from that of the calibration images (p = %.1e, "
                    "white level %d, usually %d)", label, len(levels), white_level.p_value, white_level.median,
                    white_level.usual
                )  # fmt: skip
        elif not alarm and window.alarm_since is not None:
            window.alarm_since = None
            log.warning("drift of %s has ended", _label(key, source))
        status = WindowStatus(
            source, len(p_values), statistic, p_value, white_level, share, alarm, since, window.alarm_since
        )
        window.judged, window.judged_at = status, count
        return status


def _alarmed(key: Key, windows: Iterable[tuple[str | None, Window]]) -> list[str]:
    return [_label(key, source) for source, window in windows if window.alarm_since is not None]


def _label(key: Key, source: str | None) -> str:
    return f"{key}" if source is None else f"{key} from {source}"
