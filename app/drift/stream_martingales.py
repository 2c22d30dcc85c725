"""Conformal martingale tests of one stream of images, on its anomaly statistics and white levels.

The white level of an image is the smallest grey level that at least 99 % of its values do not exceed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.anomaly.conformal_martingale import ConformalMartingale, Counts, RankCounts
from snf_runtime.anomaly.conformal import statistic_cells


@dataclass(eq=False)
class StreamBets:
    """Martingale test for drift of one quantity, such as the anomaly statistic, in a stream of images.

    It has the ranks of the values, and the capital that is bet on them.

    ``unseen`` holds the counts of the calibration alone, before the first image of the stream.
    """

    ranks: RankCounts
    unseen: Counts
    martingale: ConformalMartingale = field(default_factory=ConformalMartingale)

    @classmethod
    def start(cls, calibration: Sequence[int]) -> StreamBets:
        """Return a new drift test for a stream of images, which has seen none of them yet.

        The test bets on the rank of each image. Its capital starts at 1, and a large capital is a sign of drift.

        ``calibration`` is the number of calibration images in each cell.
        """
        ranks = RankCounts.of(calibration)
        return cls(ranks, ranks.counts.copy())

    def add(self, cells: Counts) -> None:
        """Update this drift test with the cells of new images, in order of arrival, ``(m,)``.

        Each image is ranked among all earlier ones, and capital is bet on its rank.
        """
        self.martingale.bet(self.ranks.add(cells))

    @property
    def seen(self) -> Counts:
        """The number of images that this drift test has seen in each range of the statistic or of brightness.

        The result is an array of shape ``(cells,)``.

        A cell is a range of values of the tested quantity. Cells are ordered. Calibration images are not included.
        """
        return self.ranks.counts - self.unseen


@dataclass(eq=False)
class StreamMartingales:
    """Drift tests on a stream of images: a test of anomaly statistics and, where possible, a test of brightness.

    They are conformal martingales. The measure of brightness is the white level.

    White levels are tested only where the calibration has them.

    Each of two capitals must reach twice the threshold, so that together they raise a false alarm with a probability of
    at most 1 / threshold. Their mean has no such bound: each is a martingale among its own ranks, not among both.

    Attributes:
        statistics: Bets on the ranks of anomaly statistics.
        white_levels: Bets on the ranks of white levels; None where the calibration has none.
        since: Time of the first image, in seconds since 1970.
        alarm_since: Start of the alarm, in seconds since 1970; None without an alarm.
    """

    statistics: StreamBets
    white_levels: StreamBets | None
    since: float
    alarm_since: float | None = None

    @classmethod
    def start(cls, statistics: Sequence[int], white_levels: Sequence[int] | None, since: float) -> StreamMartingales:
        """Create martingale tests for drift in a stream of images, before the first image is added.

        Args:
            statistics: Number of calibration images in each cell of the anomaly statistic.
            white_levels: Number of calibration images of each white level; None if they are not known.
            since: Time of the first image, in seconds since 1970.
        """
        levels = None if white_levels is None else StreamBets.start(white_levels)
        return cls(StreamBets.start(statistics), levels, since)

    def add(self, statistics: Sequence[float], white_levels: Sequence[int]) -> None:
        """Update these drift tests with the statistics and the brightness of new images, in order of arrival.

        The brightness of an image is given as its white level.
        """
        self.statistics.add(statistic_cells(statistics))
        if self.white_levels is not None:
            self.white_levels.add(np.asarray(white_levels, dtype=np.int64))

    def status(self, threshold: float) -> MartingaleStatus:
        """Return the state of the drift tests on an image stream, including whether there is a drift alarm.

        It has the larger capital now, and the highest capital so far.

        Args:
            threshold: Capital that raises an alarm; twice of it where there are two capitals.
        """
        bets = {"p-values": self.statistics.martingale}
        if self.white_levels is not None:
            bets["white-level"] = self.white_levels.martingale
        highest = max(bets, key=lambda name: bets[name].log_highest)
        limit = math.log(threshold * len(bets))
        return MartingaleStatus(
            of=highest,
            log10_capital=_decimal(max(martingale.log_capital for martingale in bets.values())),
            log10_highest=_decimal(bets[highest].log_highest),
            log10_threshold=_decimal(limit),
            images=self.statistics.martingale.images,
            since=self.since,
            alarm=bets[highest].log_highest >= limit,
        )


@dataclass(frozen=True)
class MartingaleStatus:
    """State of the martingale drift tests of an image stream: betting capital, threshold and alarm.

    Attributes:
        of: ``p-values`` or ``white-level``: whichever capital was the highest so far.
        log10_capital: Decimal logarithm of the larger capital now; 0 at the start.
        log10_highest: Decimal logarithm of the highest capital so far.
        log10_threshold: Decimal logarithm of the capital that raises an alarm.
        images: Number of images that were bet on.
        since: Time of the first of them, in seconds since 1970.
        alarm: Whether the highest capital is at least the threshold.
    """

    of: str
    log10_capital: float
    log10_highest: float
    log10_threshold: float
    images: int
    since: float
    alarm: bool


def _decimal(logarithm: float) -> float:
    return logarithm / math.log(10)
