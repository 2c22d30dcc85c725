"""Drift tests of scored images, and the alarms that they start and end."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from app.drift.status import WindowStatus
from app.drift.stream_martingales import MartingaleStatus
from app.drift.window import NewImages, Window, WindowImages, WindowReference
from models.anomaly.drift import DriftResult, LevelDrift, drift_test, level_test, low_share

CALM = 10.0
"""An alarm ends past this multiple of the threshold, so that it does not flicker at the edge."""

log = logging.getLogger(__name__)


OFF = 1e300
"""Threshold that turns the martingale off: capitals are logarithms and may exceed it."""


@dataclass(frozen=True)
class DriftJudge:
    """Statistical tests that detect whether scored images drift away from the calibration images.

    Kolmogorov-Smirnov tests check the newest images. A martingale test checks all images.

    Attributes:
        min_images: Fewest images for a Kolmogorov-Smirnov test.
        level: P-value of these tests at which an alarm starts.
        threshold: Capital of the martingale at which an alarm starts, which lasts until it is acknowledged.
    """

    min_images: int
    level: float
    threshold: float

    def judge(
        self,
        window: Window,
        images: WindowImages,
        reference: WindowReference,
        source: str | None,
        label: str,
        now: float,
    ) -> WindowStatus:
        """Test recently scored images for drift, and start or end drift alarms.

        Returns the results of all tests. Alarms that start or end are logged.

        Args:
            window: The window; its images are not read.
            images: Its images.
            reference: Facts on the calibration.
            source: Source of the images; None for all sources.
            label: Name of model and source in the log.
            now: Time in seconds since 1970.
        """
        had_alarm = window.any_alarm_since is not None
        martingale = self._bet(window, images.new, reference, label, now)
        tested, light, alarm_by = self._compare(window, images, reference)
        share = low_share(images.p_values)
        if alarm_by and window.alarm_since is None:
            window.alarm_since = now
            _log_start(label, images, tested, light, share, alarm_by[0])
        elif not alarm_by and window.alarm_since is not None:
            window.alarm_since = None
            if window.any_alarm_since is not None:
                log.warning("the newest images of %s fit again; its alarm lasts until it is acknowledged", label)
        if had_alarm and window.any_alarm_since is None:
            log.warning("drift of %s has ended", label)
        if martingale is not None and martingale.alarm:
            alarm_by.append("martingale")
        return WindowStatus(
            source=source,
            images=len(images.p_values),
            statistic=None if tested is None else tested.statistic,
            p_value=None if tested is None else tested.p_value,
            white_level=light,
            martingale=martingale,
            low_share=share,
            alarm=bool(alarm_by),
            alarm_by=tuple(alarm_by),
            since=images.since,
            alarm_since=window.any_alarm_since,
        )

    def _compare(
        self, window: Window, images: WindowImages, reference: WindowReference
    ) -> tuple[DriftResult | None, LevelDrift | None, list[str]]:
        """Return both Kolmogorov-Smirnov tests, each None where it cannot be made, and the names of those in alarm."""
        tested = light = None
        alarm_by = []
        level = self.level if window.alarm_since is None else min(1.0, CALM * self.level)
        if reference.white_levels is not None and len(images.white_levels) >= self.min_images:
            # Two tests share the rate of false alarms.
            level /= 2
            light = level_test(images.white_levels, reference.white_levels)
        if len(images.p_values) >= self.min_images:
            tested = drift_test(images.p_values, reference.images, reference.smallest_p, level)
            if tested.alarm:
                alarm_by.append("p-values")
        if light is not None and light.p_value <= level:
            alarm_by.append("white-level")
        return tested, light, alarm_by

    def _bet(
        self, window: Window, new: NewImages, reference: WindowReference, label: str, now: float
    ) -> MartingaleStatus | None:
        """Bet on the new images, and return the state of the martingale; None before the first, or where it is off."""
        if self.threshold >= OFF:
            if window.martingales is not None:
                # It was turned off.
                window.martingales.alarm_since = None
            return None
        if new.statistics:
            window.martingales = window.martingales or reference.martingales(new.since)
            window.martingales.add(new.statistics, new.white_levels)
        bets = window.martingales
        if bets is None:
            return None
        status = bets.status(self.threshold)
        if status.alarm and bets.alarm_since is None:
            bets.alarm_since = now
            log.warning(
                "%s drifts: its %d images are not exchangeable with the calibration images (%s, capital 10^%.1f)",
                label, status.images, status.of, status.log10_highest
            )  # fmt: skip
        elif not status.alarm:
            # The threshold was raised.
            bets.alarm_since = None
        return status


def _log_start(
    label: str, images: WindowImages, tested: DriftResult | None, light: LevelDrift | None, share: float, by: str
) -> None:
    if by == "p-values":
        assert tested is not None
        log.warning(
            "%s drifts: its last %d images differ from the calibration images (p = %.1e, D = %.3f, %.1f %% "
            "with a p-value of 0.05 or less)",
            label, len(images.p_values), tested.p_value, tested.statistic, 100 * share
        )  # fmt: skip
    else:
        assert light is not None
        log.warning(
            "%s drifts: the light of its last %d images differs from that of the calibration images (p = %.1e, "
            "white level %d, usually %d)", label, len(images.white_levels), light.p_value, light.median, light.usual
        )  # fmt: skip
