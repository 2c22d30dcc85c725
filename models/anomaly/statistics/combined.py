"""The anomaly statistic T of an image: p-values of several groups of statistics, merged into one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from models.anomaly.statistics.local import LocalFamily
from models.anomaly.statistics.whole_image import WholeFamily
from models.scoring.evidence import Evidence
from models.scoring.grid import regions

Array = NDArray[np.float64]

OTHERS_WEIGHT = 0.25
"""Weight of the local and of the gradient family, against 1 of the whole image: they detect fewer anomalies."""


def weights(families: int) -> Array:
    """Return the weights, of sum 1, for merging p-values: whole-image statistics count 4 times local or gradient ones.

    ``families`` is the number of these families of statistics: 1 to 3.
    """
    unscaled = np.full(families, OTHERS_WEIGHT)
    unscaled[0] = 1
    shares: Array = unscaled / unscaled.sum()
    return shares


def merge(surprises: Array) -> Array:
    """Return -ln of the weighted harmonic mean of p-values given as -ln p, ``(N, kinds of statistic)`` -> ``(N,)``.

    T = ln Σ_f w_f / p_f (Wilson 2019; Vovk & Wang 2020, with r = -1). Larger is more anomalous. Unlike in a sum, strong
    evidence of one family is not outweighed by families without any.

    >>> merge(np.array([[3.0, 3.0]])).round(6).tolist()
    [3.0]
    """
    merged: Array = logsumexp(surprises, axis=1, b=weights(surprises.shape[1]))
    return merged


@dataclass(frozen=True)
class Statistic:
    """The anomaly statistic T of an image: -ln of a p-value merged from its whole-image and its local statistics.

    T is in nats, about -ln of the probability of evidence at least as strong.

    ``local`` is None for a flow without spatial structure. Otherwise the unevenness of the regions is one of the
    statistics of the whole image.
    """

    whole: WholeFamily
    local: LocalFamily | None

    @classmethod
    def fit(cls, evidence: Evidence, names: Sequence[str], grid: tuple[int, int] | None) -> Self:
        """Return the anomaly statistic with densities fitted to whole-image and local statistics of normal images.

        Args:
            evidence: The evidence of the reference images.
            names: The names of its whole-image statistics.
            grid: Rows and columns of cells; None for a flow without spatial structure.
        """
        local = None if grid is None else LocalFamily.fit(evidence.cells, evidence.whole[:, 0], grid)
        return cls(WholeFamily.fit(_statistics(evidence, local), _names(names, local)), local)

    def names(self, names: Sequence[str]) -> list[str]:
        """Return the names of all K whole-image statistics: the given ones, then ``unevenness-1`` etc. by region shape.

        Unevenness is how much the log-density varies over the regions of a shape. ``names`` are those of the statistics
        that the forward pass gives.
        """
        return _names(names, self.local)

    def statistics(self, evidence: Evidence) -> Array:
        """Return whole-image statistics, ``(N, K)``: the first is image complexity, an entropy in bits/dim.

        The unevenness of the log-density by region shape is in the last columns.
        """
        return _statistics(evidence, self.local)

    def families(self, evidence: Evidence) -> Array:
        """Return -ln p of each image by its whole-image and its local statistics, ``(N, 2)`` in nats.

        For a flow without spatial structure there are no local ones, and the result is ``(N, 1)``.
        """
        columns = [self.whole.surprise(self.statistics(evidence))]
        if self.local is not None:
            columns.append(self.local.surprise(evidence.cells, evidence.whole[:, 0]))
        return np.stack(columns, 1)

    def __call__(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic T of each image in nats, ``(N,)``; larger is more anomalous."""
        return merge(self.families(evidence))


def _names(names: Sequence[str], local: LocalFamily | None) -> list[str]:
    shapes = 0 if local is None else len(regions(*local.shape))
    return [*names, *(f"unevenness-{number}" for number in range(1, shapes + 1))]


def _statistics(evidence: Evidence, local: LocalFamily | None) -> Array:
    return evidence.whole if local is None else np.concatenate([evidence.whole, local.unevenness(evidence.cells)], 1)
