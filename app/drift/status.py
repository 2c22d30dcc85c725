"""Results of the drift tests on a window of recent images."""

from __future__ import annotations

from dataclasses import dataclass

from app.drift.stream_martingales import MartingaleStatus
from models.anomaly.drift import LevelDrift


@dataclass(frozen=True)
class WindowStatus:
    """Results of the drift tests on the recent images of a model or an image source.

    Attributes:
        source: Label of the source; None for all sources.
        images: Number of images in the window.
        statistic: Kolmogorov-Smirnov distance of the p-values from calibration; None while there are too few images.
        p_value: P-value of that distance; None while there are too few images.
        white_level: The same of the white levels; None also where the calibration has none.
        martingale: The martingale test of all images; None where a file of an earlier service has none.
        low_share: Share of images with a p-value of 0.05 or less.
        alarm: Whether a test raises an alarm.
        alarm_by: The tests that do: ``p-values`` and ``white-level`` for those of Kolmogorov and Smirnov, and
            ``martingale``.
        since: Time of the oldest image in the window, in seconds since 1970.
        alarm_since: Start of the alarm, in seconds since 1970; None without an alarm.
    """

    source: str | None
    images: int
    statistic: float | None
    p_value: float | None
    white_level: LevelDrift | None
    martingale: MartingaleStatus | None
    low_share: float
    alarm: bool
    alarm_by: tuple[str, ...]
    since: float
    alarm_since: float | None
