"""Conformal martingale tests of one stream of images, on its p-values and white levels.

The white level of an image is the smallest grey level that at least 99 % of its values do not exceed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.anomaly.conformal_martingale import ConformalMartingale, Counts, RankCounts, p_value_cells


@dataclass(eq=False)
class StreamBets:
    """Martingale test for drift of one quantity, such as the p-value, in a stream of images.

    It has the ranks of the values, and the capital that is bet on them.

    ``unseen`` holds the counts of the calibration alone, before the first image of the stream.
    """

    ranks: RankCounts
    unseen: Counts
    martingale: ConformalMartingale = field(default_factory=ConformalMartingale)

    @classmethod
    def start(cls, ranks: RankCounts) -> StreamBets:
        """Return a new drift test for a stream of images, which has seen none of them yet.

        The test bets on the rank of each image. Its capital starts at 1, and a large capital is a sign of drift.
        """
        return cls(ranks, ranks.counts.copy())

    def add(self, cells: Counts, generator: np.random.Generator) -> None:
        """Update this drift test with one value per new image, such as the image's p-value.

        Each value is ranked among all earlier ones, and capital is bet on its rank.

        The images come in order of arrival. Each is given by the cell in which its value is counted, ``(m,)``.
        """
        self.martingale.bet(self.ranks.add(cells, generator))

    @property
    def seen(self) -> Counts:
        """The number of images that this drift test has seen in each range of p-values or of brightness.

        The result is an array of shape ``(cells,)``.

        A cell is a range of values of the tested quantity. Cells are ordered. Calibration images are not included.
        """
        return self.ranks.counts - self.unseen


@dataclass(eq=False)
class StreamMartingales:
    """Drift tests on a stream of images: a test of p-values and, where possible, a test of brightness.

    They are conformal martingales. The measure of brightness is the white level.

    White levels are tested only where the calibration has them.

    Each of two capitals must reach twice the threshold, so that together they raise a false alarm with a probability of
    at most 1 / threshold. Their mean has no such bound: each is a martingale among its own ranks, not among both.

    Attributes:
        p_values: Bets on the ranks of p-values.
        white_levels: Bets on the ranks of white levels; None where the calibration has none.
        calibration_images: Number of calibration images, which defines the cells of p-values.
        since: Time of the first image, in seconds since 1970.
        alarm_since: Start of the alarm, in seconds since 1970; None without an alarm.
    """

    p_values: StreamBets
    white_levels: StreamBets | None
    calibration_images: int
    since: float
    alarm_since: float | None = None

    @classmethod
    def start(cls, images: int, white_levels: Sequence[int] | None, since: float) -> StreamMartingales:
        """Create martingale tests for drift in a stream of images, before the first image is added.

        Args:
            images: Number of calibration images.
            white_levels: Number of calibration images of each white level; None if they are not known.
            since: Time of the first image, in seconds since 1970.
        """
        levels = None if white_levels is None else StreamBets.start(RankCounts.of_levels(white_levels))
        return cls(StreamBets.start(RankCounts.of_p_values(images)), levels, images, since)

    def add(self, p_values: Sequence[float], white_levels: Sequence[int], generator: np.random.Generator) -> None:
        """Update these drift tests with the p-values and the brightness of new images, in order of arrival.

        The brightness of an image is given as its white level.
        """
        self.p_values.add(p_value_cells(p_values, self.calibration_images), generator)
        if self.white_levels is not None:
            self.white_levels.add(np.asarray(white_levels, dtype=np.int64), generator)

    def status(self, threshold: float) -> MartingaleStatus:
        """Return the state of the drift tests on an image stream, including whether there is a drift alarm.

        It has the larger capital now, and the highest capital so far.

        Args:
            threshold: Capital that raises an alarm; twice of it where there are two capitals.
        """
        bets = {"p-values": self.p_values.martingale}
        if self.white_levels is not None:
            bets["white-level"] = self.white_levels.martingale
        highest = max(bets, key=lambda name: bets[name].log_highest)
        limit = math.log(threshold * len(bets))
        return MartingaleStatus(
            of=highest,
            log10_capital=_decimal(max(martingale.log_capital for martingale in bets.values())),
            log10_highest=_decimal(bets[highest].log_highest),
            log10_threshold=_decimal(limit),
            images=self.p_values.martingale.images,
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
