"""Verdicts from stored image statistics, by any calibration of the same weights and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from snf_models.artifacts.manifest import Precision
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.detection import size_error
from snf_runtime.scoring.evidence import Evidence


@dataclass(frozen=True)
class StoredEvidence:
    """Stored statistics of a scored image, by which it is judged again."""

    evidence: Evidence
    alpha: float | None  # None: the calibration's default
    precision: Precision

    @classmethod
    def of(cls, evidence: Evidence, alpha: float | None, precision: Precision) -> Self:
        """Copy evidence, without white level: a view would keep the whole batch in memory."""
        features = evidence.features
        copied = None
        if features is not None:
            copied = replace(features, places=np.array(features.places), pooled=np.array(features.pooled))
        channels = None if evidence.channels is None else np.array(evidence.channels)
        own = Evidence(np.array(evidence.whole), np.array(evidence.cells), features=copied, channels=channels)
        return cls(own, alpha, precision)

    @property
    def nbytes(self) -> int:
        evidence = self.evidence
        parts = (evidence.whole, evidence.cells, evidence.channels, evidence.features)
        return sum(part.nbytes for part in parts if part is not None)


def rejudge(calibration: Calibration, stored: Sequence[StoredEvidence]) -> list[bool | None]:
    """Return whether each image is anomalous; None where its rate is not attainable, or its size not calibrated."""
    if not stored:
        return []
    p = calibration.p_values(Evidence.join([image.evidence for image in stored]))
    verdicts: list[bool | None] = []
    for p_value, image in zip(p, stored, strict=True):
        alpha = calibration.default_alpha if image.alpha is None else image.alpha
        plans = () if image.evidence.features is None else image.evidence.features.plans or ()
        refused = alpha < calibration.smallest_p or any(size_error(calibration, plan) for plan in plans)
        verdicts.append(None if refused else bool(p_value <= alpha))
    return verdicts
