"""Bounded windows of the newest p-values of every model, all images together and by source; memory alone."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from models.anomaly.drift import drift_test, low_share

MAX_MODELS = 64
"""Model versions that have windows; the least recently scored one is forgotten."""
CALM = 10.0
"""An alarm ends past this multiple of the threshold, so that one on the edge does not come and go with every image."""

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Whose p-values may stand in one window: those of one calibration of one version."""

    name: str
    version: int
    calibration: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" + (f" (calibration {self.calibration})" if self.calibration else "")


@dataclass(frozen=True)
class Reference:
    """What the p-values are ranks in; a model trained again in the place of another has other weights."""

    weights: str
    images: int
    smallest_p: float


@dataclass(frozen=True)
class Seen:
    """What is known of one window; `source` is None for all images together, the test's numbers until it is judged."""

    source: str | None
    images: int
    statistic: float | None
    p_value: float | None
    low_share: float
    alarm: bool
    since: float
    alarm_since: float | None


@dataclass(eq=False)
class Window:
    """The newest p-values with the times they came at, in seconds since 1970."""

    p_values: deque[float]
    times: deque[float]
    count: int = 0
    alarm_since: float | None = None
    judged_at: int = -1
    judged: Seen | None = None

    def add(self, p_values: Iterable[float], now: float) -> None:
        """Takes p-values in, and drops the oldest."""
        for p in p_values:
            self.p_values.append(p)
            self.times.append(now)
            self.count += 1


@dataclass(eq=False)
class Group:
    """The windows of one model; the sources in order of use, the latest last."""

    reference: Reference
    everything: Window
    sources: OrderedDict[str, Window] = field(default_factory=OrderedDict)

    def windows(self) -> Iterator[tuple[str | None, Window]]:
        """All windows with their source, that of all images together first."""
        yield None, self.everything
        yield from self.sources.items()


class DriftWindows:
    """Takes p-values in from any thread in O(1) an image, and judges a window when somebody looks.

    Every image counts once in the window of all images and once in that of its source, if it has one. An image that one
    client sends again and again counts every time: that the stream does not look like the calibration images any more
    is what is to be found, and whoever may score may also raise an alarm.
    """

    def __init__(self, *, images: int, min_images: int, level: float, sources: int) -> None:
        self._images = images
        self._min_images = min_images
        self._level = level
        self._sources = sources
        self._groups: OrderedDict[Key, Group] = OrderedDict()
        # The event loop waits for the first one, which is never held while something is computed.
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._changes = 0

    @property
    def changes(self) -> int:
        """A number that is another one whenever there is something new to keep."""
        return self._changes

    def record(self, key: Key, reference: Reference, source: str | None, p_values: Sequence[float], now: float) -> None:
        """Takes the p-values of a request in."""
        if not p_values:
            return
        with self._lock:
            group = self._groups.get(key)
            dropped: list[str] = []
            if group is None or group.reference != reference:
                dropped = _alarmed(key, group.windows()) if group else []
                group = self._groups[key] = Group(reference, self._window())
            self._groups.move_to_end(key)
            group.everything.add(p_values, now)
            if source is not None:
                window = group.sources.setdefault(source, self._window())
                window.add(p_values, now)
                group.sources.move_to_end(source)
            dropped += self._keep_limits(key, group)
            self._changes += 1
        for name in dropped:
            log.warning("drift of %s is over: its window was dropped", name)

    def look(self, key: Key, now: float, weights: str | None = None) -> list[Seen]:
        """Every window of a model as it stands, all images together first; logs an alarm's start and end.

        Empty where nothing was scored, or not with the weights that are given.
        """
        with self._looking:
            with self._lock:
                group = self._groups.get(key)
                if group is None or weights not in (None, group.reference.weights):
                    return []
                windows = list(group.windows())
            return [self._judge(key, group.reference, source, window, now) for source, window in windows]

    def models(self) -> list[Key]:
        """The models that have windows."""
        with self._lock:
            return list(self._groups)

    def contents(self) -> list[tuple[Key, Reference, list[tuple[str | None, Window]]]]:
        """Copies of everything, to be kept."""
        found = []
        for key in self.models():
            # One model at a time, so that a score never waits for all of them.
            with self._lock:
                group = self._groups.get(key)
                if group is not None:
                    copies = [(source, self._window(window)) for source, window in group.windows()]
                    found.append((key, group.reference, copies))
        return found

    def restore(self, key: Key, reference: Reference, windows: Sequence[tuple[str | None, Window]]) -> None:
        """Puts back what `contents` gave, as much of it as the limits of now allow."""
        copies = {source: self._window(window) for source, window in windows}
        if None not in copies:
            return
        group = Group(reference, copies.pop(None))
        group.sources.update((source, window) for source, window in copies.items() if source is not None)
        with self._lock:
            self._groups[key] = group
            self._keep_limits(key, group)

    def _window(self, content: Window | None = None) -> Window:
        p_values = deque(content.p_values if content else (), self._images)
        times = deque(content.times if content else (), self._images)
        return Window(p_values, times, len(p_values), content.alarm_since if content else None)

    def _keep_limits(self, key: Key, group: Group) -> list[str]:
        """Drops what is too much; answers what of it had an alarm."""
        dropped = []
        while len(group.sources) > self._sources:
            dropped += _alarmed(key, [group.sources.popitem(last=False)])
        while len(self._groups) > MAX_MODELS:
            old, forgotten = self._groups.popitem(last=False)
            dropped += _alarmed(old, forgotten.windows())
        return dropped

    def _judge(self, key: Key, reference: Reference, source: str | None, window: Window, now: float) -> Seen:
        with self._lock:
            count = window.count
            if window.judged is not None and window.judged_at == count:
                return window.judged
            p_values, since = list(window.p_values), window.times[0]
        statistic = p_value = None
        alarm = False
        if len(p_values) >= self._min_images:
            level = self._level if window.alarm_since is None else min(1.0, CALM * self._level)
            found = drift_test(p_values, reference.images, reference.smallest_p, level)
            statistic, p_value, alarm = found.statistic, found.p_value, found.alarm
        share = low_share(p_values)
        if alarm and window.alarm_since is None:
            window.alarm_since = now
            log.warning(
                "%s drifts: its last %d images differ from the calibration images (p = %.1e, D = %.3f, %.1f %% with a "
                "p-value of 0.05 or less)", _label(key, source), len(p_values), p_value, statistic, 100 * share
            )  # fmt: skip
        elif not alarm and window.alarm_since is not None:
            window.alarm_since = None
            log.warning("drift of %s is over", _label(key, source))
        seen = Seen(source, len(p_values), statistic, p_value, share, alarm, since, window.alarm_since)
        window.judged, window.judged_at = seen, count
        return seen


def _alarmed(key: Key, windows: Iterable[tuple[str | None, Window]]) -> list[str]:
    return [_label(key, source) for source, window in windows if window.alarm_since is not None]


def _label(key: Key, source: str | None) -> str:
    return f"{key}" if source is None else f"{key} from {source}"
