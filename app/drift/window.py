"""Window of the most recently scored images of a model or image source, for drift tests."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from app.drift.status import WindowStatus
from app.drift.stream_martingales import StreamMartingales


class Key(NamedTuple):
    """Key under which a model's drift data are kept: name, version and calibration number."""

    name: str
    version: int
    calibration: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" + (f" (calibration {self.calibration})" if self.calibration else "")


@dataclass
class NewImages:
    """Anomaly statistics and brightness (white levels) of the images scored since the last drift test.

    They are in order of arrival. ``since`` is the time of the first image, in seconds since 1970.

    White levels may be missing for some images.
    """

    statistics: list[float] = field(default_factory=list)
    white_levels: list[int] = field(default_factory=list)
    since: float = 0.0


@dataclass(frozen=True)
class WindowImages:
    """Copy of the p-values and brightness of recently scored images, taken for a drift test.

    The measure of brightness is the white level.

    ``since`` is the time of the oldest image, in seconds since 1970. ``new`` has the images since the last test.
    """

    p_values: tuple[float, ...]
    white_levels: tuple[int, ...]
    since: float
    new: NewImages


@dataclass(eq=False)
class Window:
    """Sliding window of a model's newest scored images, from one image source or from all, for drift tests.

    Queues of bounded length have their p-values, white levels and times. The last test result is kept, too.

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

    def add(
        self, p_values: Iterable[float], white_levels: Iterable[int], statistics: Iterable[float], now: float
    ) -> None:
        """Add the p-values, white levels (brightness) and anomaly statistics of newly scored images to the window.

        ``now`` is the time of the scoring, in seconds since 1970. Full queues drop the oldest values.
        """
        if not self.new.statistics:
            self.new.since = now
        self.new.statistics.extend(statistics)
        self.white_levels.extend(white_levels)
        self.new.white_levels.extend(white_levels)
        for p in p_values:
            self.p_values.append(p)
            self.times.append(now)
            self.count += 1

    def take(self) -> WindowImages:
        """Return a copy of this window for a drift test, and mark all of its images as tested.

        The copy includes the images that came since the last call.
        """
        new, self.new = self.new, NewImages()
        return WindowImages(tuple(self.p_values), tuple(self.white_levels), self.times[0], new)

    @property
    def any_alarm_since(self) -> float | None:
        """The start time of the window's earliest active drift alarm, in seconds since 1970.

        Alarms of all tests count. None without an alarm.
        """
        starts = [self.alarm_since, None if self.martingales is None else self.martingales.alarm_since]
        return min((start for start in starts if start is not None), default=None)


@dataclass(frozen=True)
class WindowReference:
    """Properties of a calibration that drift tests need, such as the number and brightness of its images.

    They include the digest of the weights.

    Attributes:
        weights: Digest of the weights; a model that was trained again in the same place has another.
        images: Number of calibration images.
        smallest_p: Smallest p-value that the calibration can give.
        white_levels: Number of calibration images of each white level, 0 to 255; None in an old calibration.
        statistics: Number of calibration images of the first fold in each cell of the martingale; None as long as it is
            only known from a file of an earlier service.
    """

    weights: str
    images: int
    smallest_p: float
    white_levels: tuple[int, ...] | None = None
    statistics: tuple[int, ...] | None = field(default=None, compare=False)

    def martingales(self, since: float) -> StreamMartingales:
        """Create martingale tests that detect whether a stream of images drifts away from the calibration.

        ``since`` is the time of the first image, in seconds since 1970.

        Raises ``ValueError`` where the statistics are not known.
        """
        if self.statistics is None:
            raise ValueError("expected the statistics of the calibration images")
        return StreamMartingales.start(self.statistics, self.white_levels, since)


@dataclass(eq=False)
class ModelWindows:
    """Sliding windows of p-values and brightness of a model's images: one overall, one for each image source."""

    reference: WindowReference
    everything: Window
    sources: OrderedDict[str, Window] = field(default_factory=OrderedDict)

    def windows(self) -> Iterator[tuple[str | None, Window]]:
        """Yield ``(source, window)`` pairs: each image source, such as a camera, with its window of newest images.

        First come all sources together, with None as source. They are left out if there is no image since the start or
        the last acknowledgement.
        """
        if self.everything.count:
            yield None, self.everything
        yield from self.sources.items()
