"""The anomaly statistic T of an image: p-values of several groups of statistics, merged into one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.tails import Tail
from snf_runtime.anomaly.statistics.features import FeatureFamily
from snf_runtime.anomaly.statistics.local import LocalFamily
from snf_runtime.anomaly.statistics.whole_image import WholeFamily
from snf_runtime.numerics import logsumexp
from snf_runtime.scoring.channel_statistics import is_channel_statistic
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.grid import regions

Array = NDArray[np.float64]

EvidenceKind = Literal["whole", "local", "features"]
"""A group of statistics with a p-value of its own: of the whole image, of regions, of features."""
WEIGHTS: dict[EvidenceKind, float] = {"whole": 1.0, "local": 0.25, "features": 1.0}
"""Weights of the groups, before they are scaled to the sum 1. Regions detect fewer anomalies."""
TYPICAL = math.log(2)
"""The median of -ln p of images that are like those to which a group was fitted, in nats."""


def weights(kinds: Sequence[EvidenceKind], held_out: HeldOutSurprises | None = None) -> Array:
    """Return the weights of the groups, whose sum is 1; ``held_out`` surprises are used where they are known."""
    unscaled = np.array([WEIGHTS[kind] for kind in kinds])
    if held_out is not None:
        unscaled = unscaled / held_out.inflation
    shares: Array = unscaled / unscaled.sum()
    return shares


def merge(surprises: Array, shares: Array) -> Array:
    """Return ln Σ_f w_f / p_f (Wilson 2019; Vovk & Wang 2020, r = -1), where weak evidence does not outweigh strong.

    >>> merge(np.array([[3.0, 3.0]]), weights(("whole", "local"))).round(6).tolist()
    [3.0]
    """
    merged: Array = logsumexp(surprises, shares)
    return merged


@dataclass(frozen=True)
class HeldOutSurprises:
    """Distributions of each group's -ln p over normal images that it was not fitted to."""

    tails: tuple[Tail, ...]
    inflation: Array  # median surprise over ln 2, its value without overfitting; at least 1

    @classmethod
    def fit(cls, surprises: Array, least: Array) -> Self:
        """Fit the tails to the surprises ``(N, kinds)``; ``least`` has the smallest inflation of each group."""
        medians = np.median(surprises, axis=0)
        return cls(tuple(Tail.fit(column) for column in surprises.T), np.maximum(least, medians / TYPICAL))


@dataclass(frozen=True)
class Statistic:
    """Anomaly statistic T = -ln p in nats, with p merged from those of whole image, regions and features."""

    whole: WholeFamily | None  # None for a density of features alone
    local: LocalFamily | None
    features: FeatureFamily | None = None  # None for a density of pixels alone
    held_out: HeldOutSurprises | None = None

    @property
    def kinds(self) -> tuple[EvidenceKind, ...]:
        """The groups in use, in the order of :meth:`families`."""
        groups: dict[EvidenceKind, object] = {"whole": self.whole, "local": self.local, "features": self.features}
        return tuple(kind for kind, group in groups.items() if group is not None)

    @property
    def weights(self) -> Array:
        """The weights of the groups in the order of :attr:`kinds`; their sum is 1."""
        return weights(self.kinds, self.held_out)

    def names(self, names: Sequence[str]) -> list[str]:
        """Return the names of the columns of :meth:`statistics`; ``names`` are those of the forward pass."""
        shapes = 0 if self.local is None else len(regions(*self.local.shape))
        of_image = [name for name in names if not is_channel_statistic(name)]
        of_channels = [name for name in names if is_channel_statistic(name)]
        return [*of_image, *(f"unevenness-{number}" for number in range(1, shapes + 1)), *of_channels]

    def statistics(self, evidence: Evidence) -> Array:
        """Return complexity, other whole-image statistics, unevenness, then channels, which old calibrations lack."""
        columns = [evidence.whole]
        if self.local is not None:
            columns.append(self.local.unevenness(evidence.cells))
        if evidence.channels is not None:
            columns.append(evidence.channels)
        return np.concatenate(columns, 1)

    def families(self, evidence: Evidence) -> Array:
        """Return -ln p of each image by each group in :attr:`kinds`, ``(N, kinds)`` in nats."""
        columns = []
        if self.whole is not None:
            columns.append(self.whole.surprise(self.statistics(evidence)))
        if self.local is not None:
            columns.append(self.local.surprise(evidence.cells, evidence.whole[:, 0]))
        if self.features is not None:
            assert evidence.features is not None
            columns.append(self.features.surprise(evidence.features))
        if self.held_out is not None:
            columns = [tail.surprise(column) for tail, column in zip(self.held_out.tails, columns, strict=True)]
        return np.stack(columns, 1)

    def __call__(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic T of each image in nats, ``(N,)``; larger is more anomalous."""
        return merge(self.families(evidence), self.weights)
