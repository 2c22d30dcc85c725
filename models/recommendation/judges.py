"""Verdicts of several families on the same images, with one pass of each density."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from models.anomaly.fitting.split_or_cross_conformal import ReferenceEvidence, fit_cross, fit_split
from models.datasets import Images
from models.errors import ScoreNotFinite
from models.recommendation.fit_densities import FittedPart, PartName
from models.recommendation.record import FAMILIES, FamilyName
from models.recommendation.subsets import Subsets
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.likelihood import Likelihood, score_each

PARTS_OF: dict[FamilyName, tuple[PartName, ...]] = {
    "features": ("features",),
    "pixels": ("pixels",),
    "hybrid": ("pixels", "features"),
}
"""The densities of each family; a hybrid model joins the evidence of both."""


@dataclass(frozen=True)
class FamilyJudges:
    """Fitted, calibrated families. An image is flagged if its p-value is at most ``alpha``."""

    parts: Mapping[PartName, FittedPart]
    calibrations: Mapping[FamilyName, Calibration]
    alpha: float
    seconds: dict[PartName, float] = field(default_factory=dict)  # of verdicts, by density
    images: dict[PartName, int] = field(default_factory=dict)  # scored in this time

    @classmethod
    def calibrate(
        cls,
        parts: Mapping[PartName, FittedPart],
        evidence: Mapping[PartName, ReferenceEvidence],
        subsets: Subsets,
        alpha: float,
    ) -> FamilyJudges:
        """Calibrate each family; ``alpha`` is raised to the smallest p-value."""
        calibrations = {}
        for family in FAMILIES:
            # A model takes images of one size.
            own = [parts[part] for part in PARTS_OF[family] if part in parts]
            if len(own) == len(PARTS_OF[family]) and len({part.preprocessing for part in own}) == 1:
                calibrations[family] = _calibration(family, parts, evidence, subsets)
        smallest = 1 / (subsets.ranks + 1)
        return cls(parts, calibrations, max(alpha, smallest))

    def flagged(self, images: Images, families: Iterable[FamilyName]) -> dict[FamilyName, int]:
        """Return how many images each family flags; those without a finite likelihood are not flagged."""
        wanted = list(families)
        scored: dict[PartName, list[Likelihood | ScoreNotFinite]] = {}
        for part in dict.fromkeys(part for family in wanted for part in PARTS_OF[family]):
            began = time.monotonic()
            scored[part] = score_each(self.parts[part].density, self.parts[part].prepared(images))
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - began
            self.images[part] = self.images.get(part, 0) + len(images)
        return {family: self._count(family, [scored[part] for part in PARTS_OF[family]]) for family in wanted}

    def seconds_per_image(self, family: FamilyName) -> float:
        """Return the mean seconds of a family's densities together."""
        return sum(self.seconds[part] / self.images[part] for part in PARTS_OF[family])

    def _count(self, family: FamilyName, scored: list[list[Likelihood | ScoreNotFinite]]) -> int:
        """Return how many images a family flags, from the scores of each of its densities."""
        rows = []
        for scores in zip(*scored, strict=True):
            evidence = [
                score.evidence for score in scores if isinstance(score, Likelihood) and score.evidence is not None
            ]
            if len(evidence) == len(scores):
                rows.append(_joined(evidence))
        if not rows:
            return 0
        return int((self.calibrations[family].p_values(Evidence.join(rows)) <= self.alpha).sum())


def _calibration(
    family: FamilyName,
    parts: Mapping[PartName, FittedPart],
    evidence: Mapping[PartName, ReferenceEvidence],
    subsets: Subsets,
) -> Calibration:
    first, *rest = PARTS_OF[family]
    density = parts[first].density
    reference = evidence[first]
    if rest:
        reference = replace(reference, evidence=_joined([evidence[part].evidence for part in PARTS_OF[family]]))
    if subsets.folds is not None:
        return fit_cross(reference, subsets.folds, density.statistics, density.grid)
    count = subsets.statistics
    sides = [
        ReferenceEvidence(reference.evidence[rows], reference.log_likelihoods[rows], None, None)
        for rows in (slice(None, count), slice(count, None))
    ]
    return fit_split(sides[0], sides[1], density.statistics, density.grid)


def _joined(parts: list[Evidence]) -> Evidence:
    """Return the evidence of pixels with that of features beside it, as :class:`HybridDensity` does; or that of one."""
    return parts[0] if len(parts) == 1 else replace(parts[0], features=parts[1].features)
