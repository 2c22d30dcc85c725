"""The anomaly verdict on one image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snf_runtime.anomaly.regions import MapRegions
from snf_runtime.anomaly.verdict_reason import VerdictReason, located
from snf_runtime.images.placement import FilePlacement


@dataclass(frozen=True)
class Verdict:
    """The anomaly verdict on one image, with its p-value.

    An image is flagged if its p-value is at most ``alpha``, the requested false-alarm rate.

    The p-value is conformal: (1 + the number of calibration images that are at least as anomalous) / (n + 1), for n
    calibration images.

    Attributes:
        p_value: The conformal p-value.
        score: -log10 of the p-value.
        is_anomaly: Whether the image is flagged.
        alpha: The false-alarm rate of the verdict.
        statistic: T in nats, larger = more anomalous. It still orders images that share the smallest p-value.
        extrapolated: Whether no calibration image was as anomalous.
        smallest_p: The smallest p-value that the calibration can give.
        reasons: What contributed most, the strongest first.
        first_fold_statistic: T by the first fold of the calibration, which tests of drift rank; ``statistic`` is the
            mean over all folds.
    """

    p_value: float
    score: float
    is_anomaly: bool
    alpha: float
    statistic: float
    extrapolated: bool
    smallest_p: float
    reasons: tuple[VerdictReason, ...]
    first_fold_statistic: float

    def with_regions(self, regions: MapRegions | None) -> Verdict:
        """Return the verdict with the boxes of regions in the reasons that belong to them."""
        if regions is None:
            return self
        return replace(self, reasons=tuple(located(reason, regions.regions) for reason in self.reasons))

    def in_file(self, placement: FilePlacement) -> Verdict:
        """Return the verdict with boxes in pixels of the upright original file."""
        return replace(self, reasons=tuple(reason.in_file(placement) for reason in self.reasons))
