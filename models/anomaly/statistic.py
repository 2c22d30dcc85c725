"""The one number that orders images by strangeness: families of evidence, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from models.anomaly.evidence import Evidence
from models.anomaly.local_family import LocalFamily
from models.anomaly.whole_family import WholeFamily

Array = NDArray[np.float64]

SHARPNESS = 0.5
"""r of the merged p-value M_-r = (mean p^-r)^(-1/r): 0 would be Fisher-like, infinity the minimum (Vovk & Wang 2020).

In between, one family's strong evidence is not drowned by another that sees nothing, and two moderate ones add up.
"""


def merge(surprises: Array) -> Array:
    """Return -ln M of p-values given as surprises -ln p, ``(N, families)`` -> ``(N,)``; larger is stranger.

    >>> merge(np.array([[3.0, 3.0]])).round(6).tolist()
    [3.0]
    """
    mean = logsumexp(SHARPNESS * surprises, axis=1) - np.log(surprises.shape[1])
    merged: Array = mean / SHARPNESS
    return merged


@dataclass(frozen=True)
class Statistic:
    """T of an image, in nats: about -ln of the probability of evidence as strong, before calibration.

    ``local`` is absent where a flow has no notion of place.
    """

    whole: WholeFamily
    local: LocalFamily | None

    @classmethod
    def fit(cls, evidence: Evidence, names: Sequence[str], grid: tuple[int, int] | None) -> Self:
        """Fit all families to the evidence of reference images."""
        complexity = evidence.whole[:, 0]
        return cls(
            WholeFamily.fit(evidence.whole, names),
            None if grid is None else LocalFamily.fit(evidence.cells, complexity, grid),
        )

    def families(self, evidence: Evidence) -> Array:
        """Return the surprise of each family, ``(N, families)``, in nats."""
        columns = [self.whole.surprise(evidence.whole)]
        if self.local is not None:
            columns.append(self.local.surprise(evidence.cells, evidence.whole[:, 0]))
        return np.stack(columns, 1)

    def __call__(self, evidence: Evidence) -> Array:
        """Return T of each image, ``(N,)``."""
        return merge(self.families(evidence))
