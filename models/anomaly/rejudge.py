"""Recomputation of anomaly verdicts from stored image statistics, under any calibration of the same model.

The calibration must belong to the weights and the precision that the images were scored with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from models.artifacts.manifest import Precision
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.judged import size_error
from snf_runtime.scoring.evidence import Evidence


@dataclass(frozen=True)
class StoredEvidence:
    """Stored statistics of a scored image, from which its verdict can be computed again.

    The image itself is not needed for that.

    Attributes:
        evidence: The evidence, one row.
        alpha: The false-alarm rate that was asked for; None for the default of the calibration.
        precision: The arithmetic that the evidence was computed in.
    """

    evidence: Evidence
    alpha: float | None
    precision: Precision

    @classmethod
    def of(cls, evidence: Evidence, alpha: float | None, precision: Precision) -> Self:
        """Return a copy of an image's anomaly statistics to store, so that the image can be judged again later.

        The white level is left out.

        The arrays are copied, because a view would keep those of the whole batch in memory.
        """
        features = evidence.features
        copied = None
        if features is not None:
            copied = replace(features, places=np.array(features.places), pooled=np.array(features.pooled))
        channels = None if evidence.channels is None else np.array(evidence.channels)
        own = Evidence(np.array(evidence.whole), np.array(evidence.cells), features=copied, channels=channels)
        return cls(own, alpha, precision)

    @property
    def nbytes(self) -> int:
        """The size of the stored image statistics in bytes."""
        evidence = self.evidence
        parts = (evidence.whole, evidence.cells, evidence.channels, evidence.features)
        return sum(part.nbytes for part in parts if part is not None)


def rejudge(calibration: Calibration, stored: Sequence[StoredEvidence]) -> list[bool | None]:
    """Return whether each image is anomalous under a calibration, judged from stored image statistics.

    The calibration must belong to the weights and the precision that the images were scored with.

    None where the image would not be judged: the calibration cannot attain the false-alarm rate that was asked for, or
    is not for images of this size.
    """
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
