"""Streams of scored images, and the capitals that are bet against their being like the calibration images."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from snf_client.schemas.models import Drift
from snf_models.anomaly.exchangeability import ConformalMartingale, RankCounts
from snf_runtime.anomaly.calibration import statistic_cells

if TYPE_CHECKING:
    from snf_models.registry.registry import ModelVersion
    from snf_models.scorer import Scorer

OFF = 1e300
"""Threshold without alarms. Capitals are kept as logarithms and may exceed it."""

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Key of a model's streams."""

    name: str
    version: int
    calibration: int

    @classmethod
    def of(cls, version: ModelVersion) -> Self:
        return cls(version.name, version.version, version.calibration)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" + (f" (calibration {self.calibration})" if self.calibration else "")


@dataclass(frozen=True)
class DriftReference:
    """Calibration images, among which the images of streams are ranked.

    Attributes:
        weights: Digest of the weights; a model that was trained again in the same place has another.
        counts: Images in each cell of a quantity: "statistic", in the first fold, and "white-level", which an old
            calibration lacks.
    """

    weights: str
    counts: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, scorer: Scorer) -> Self:
        counts, levels = {"statistic": scorer.calibration.statistic_counts}, scorer.calibration.white_level_counts
        return cls(scorer.log_det_digest, counts if levels is None else {**counts, "white-level": levels})


@dataclass(eq=False)
class Bets:
    """Ranks of the images of a stream by one quantity, and the capital that is bet on them."""

    ranks: RankCounts
    martingale: ConformalMartingale = field(default_factory=ConformalMartingale)


@dataclass(eq=False)
class Stream:
    """All images of one source, or of all sources, since the first or since drift was acknowledged.

    Each of two capitals must reach twice the threshold, so that together they raise a false alarm with a probability of
    at most 1 / threshold. Their mean has no such bound: each is a martingale among its own ranks, not among both.

    Attributes:
        bets: Bets on each quantity of the reference.
        since: Time of the first image, in seconds since 1970.
        alarm_since: Start of the alarm, in seconds since 1970; None without an alarm.
        new_statistics: Anomaly statistics of images without a bet.
        new_white_levels: White levels of images without a bet.
    """

    bets: dict[str, Bets]
    since: float
    alarm_since: float | None = None
    new_statistics: list[float] = field(default_factory=list)
    new_white_levels: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, reference: DriftReference, since: float) -> Self:
        return cls({name: Bets(RankCounts.of(counts)) for name, counts in reference.counts.items()}, since)

    def bet(self) -> None:
        """Rank the new images among all earlier ones, in order of arrival, and bet on their ranks."""
        cells = {
            "statistic": statistic_cells(self.new_statistics),
            "white-level": np.array(self.new_white_levels, dtype=np.int64),
        }
        for name, bets in self.bets.items():
            bets.martingale.bet(bets.ranks.add(cells[name]))
        self.new_statistics, self.new_white_levels = [], []

    def update_alarm(self, threshold: float, label: str, now: float) -> None:
        """Start the alarm where a capital has reached its threshold, or end it where the threshold was raised."""
        status = self.status(None, threshold)
        if threshold >= OFF or status.log10_highest < status.log10_threshold:
            if self.alarm_since is not None:
                log.warning("drift of %s has ended: the threshold of its alarm was raised", label)
            self.alarm_since = None
        elif self.alarm_since is None:
            self.alarm_since = now
            log.warning(
                "%s drifts: its %d images are not exchangeable with the calibration images (%s, capital 10^%.1f)",
                label, status.images, status.quantity, status.log10_highest
            )  # fmt: skip

    def status(self, source: str | None, threshold: float) -> Drift:
        """Return the state for the API; images without a bet are left out."""
        martingales = {name: bets.martingale for name, bets in self.bets.items()}
        quantity = max(martingales, key=lambda name: martingales[name].log_highest)
        return Drift(
            source=source,
            images=martingales["statistic"].images,
            since=self.since,
            quantity=quantity,
            log10_capital=max(martingale.log_capital for martingale in martingales.values()) / math.log(10),
            log10_highest=martingales[quantity].log_highest / math.log(10),
            log10_threshold=math.log10(threshold * len(martingales)),
            alarm=self.alarm_since is not None,
            alarm_since=self.alarm_since,
        )


@dataclass(eq=False)
class ModelStreams:
    """Streams of a model by source, the least recently used first; that of all sources has the key None."""

    reference: DriftReference
    streams: OrderedDict[str | None, Stream] = field(default_factory=OrderedDict)


def label_of(key: Key, source: str | None) -> str:
    """Return how log messages name a stream, such as ``parts:1 from line-1``."""
    return f"{key}" if source is None else f"{key} from {source}"
