"""A window of the newest images of a model or of one of its sources, with the images that no bet was made on yet."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from app.drift.martingales import StreamMartingales
from app.drift.status import WindowStatus


class Key(NamedTuple):
    """Key of a group of recent p-values: the model's name, its version, and the number of its calibration."""

    name: str
    version: int
    calibration: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" + (f" (calibration {self.calibration})" if self.calibration else "")


@dataclass
class NewImages:
    """Images that came since the last test, in their order of arrival: p-values, white levels, time of the first.

    White levels may be missing for some images.
    """

    p_values: list[float] = field(default_factory=list)
    white_levels: list[int] = field(default_factory=list)
    since: float = 0.0


@dataclass(frozen=True)
class WindowImages:
    """Copy of a window's p-values and white levels, the time of the oldest, and the images since the last test."""

    p_values: tuple[float, ...]
    white_levels: tuple[int, ...]
    since: float
    new: NewImages


@dataclass(eq=False)
class Window:
    """Bounded queues of the p-values, white levels and times of the newest images, with the last test result.

    There may be fewer white levels: files of earlier services have none.

    Attributes:
        p_values: P-values of the newest images.
        times: Times at which they were scored, in seconds since 1970.
        white_levels: White levels of the newest images.
        count: Images that were ever added.
        alarm_since: Start of the alarm of the Kolmogorov-Smirnov tests, in seconds since 1970; None without one.
        martingales: Bets on all images since the first; None before the first test.
        new: Images without a bet.
        judged_at: ``count`` at the last test.
        judged: Result of the last test.
    """

    p_values: deque[float]
    times: deque[float]
    white_levels: deque[int]
    count: int = 0
    alarm_since: float | None = None
    martingales: StreamMartingales | None = None
    new: NewImages = field(default_factory=NewImages)
    judged_at: int = -1
    judged: WindowStatus | None = None

    def add(self, p_values: Iterable[float], white_levels: Iterable[int], now: float) -> None:
        """Append p-values and levels with the time ``now``, in seconds since 1970; full queues drop the oldest."""
        if not self.new.p_values:
            self.new.since = now
        self.white_levels.extend(white_levels)
        self.new.white_levels.extend(white_levels)
        for p in p_values:
            self.p_values.append(p)
            self.new.p_values.append(p)
            self.times.append(now)
            self.count += 1

    def take(self) -> WindowImages:
        """Return a copy of the window, and the images since the last call; then clear the list of new images."""
        new, self.new = self.new, NewImages()
        return WindowImages(tuple(self.p_values), tuple(self.white_levels), self.times[0], new)

    @property
    def any_alarm_since(self) -> float | None:
        """Start of the earliest current alarm of any test, in seconds since 1970; None without an alarm."""
        starts = [self.alarm_since, None if self.martingales is None else self.martingales.alarm_since]
        return min((start for start in starts if start is not None), default=None)


@dataclass(frozen=True)
class WindowReference:
    """Facts on a calibration for the drift tests, with the digest of the weights.

    Attributes:
        weights: Digest of the weights; a model that was trained again in the same place has another.
        images: Number of calibration images.
        smallest_p: Smallest p-value that the calibration can give.
        white_levels: Number of calibration images of each white level, 0 to 255; None in an old calibration.
        ranked: Whether p-values are ranks among images of one fold, hardly any of them equal. The martingale needs it.
    """

    weights: str
    images: int
    smallest_p: float
    white_levels: tuple[int, ...] | None = None
    ranked: bool = True

    def martingales(self, since: float) -> StreamMartingales:
        """Return a new martingale test for images that start at time ``since``, in seconds since 1970."""
        return StreamMartingales.start(self.images, self.white_levels, since)


@dataclass(eq=False)
class ModelWindows:
    """The newest images of one model: a window of all its images, and one of each image source."""

    reference: WindowReference
    everything: Window
    sources: OrderedDict[str, Window] = field(default_factory=OrderedDict)

    def windows(self) -> Iterator[tuple[str | None, Window]]:
        """Yield pairs of image source and window: first None for all images, then each source; none without images."""
        if self.everything.count:
            yield None, self.everything
        yield from self.sources.items()
