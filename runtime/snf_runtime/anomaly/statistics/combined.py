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
    """Return how much each group of anomaly statistics counts when their p-values are merged into one.

    The shape is ``(kinds,)``. The weights sum to 1.

    Args:
        kinds: The groups.
        held_out: Their surprises over images that they were not fitted to, where those are known.
    """
    unscaled = np.array([WEIGHTS[kind] for kind in kinds])
    if held_out is not None:
        unscaled = unscaled / held_out.inflation
    shares: Array = unscaled / unscaled.sum()
    return shares


def merge(surprises: Array, shares: Array) -> Array:
    """Merge the negative log p-values of each image into one, by a weighted harmonic mean of the p-values.

    The result is -ln of the weighted harmonic mean of the p-values, ``(N, kinds of statistic)`` -> ``(N,)``.

    T = ln Σ_f w_f / p_f (Wilson 2019; Vovk & Wang 2020, with r = -1). Larger is more anomalous. Unlike in a sum, strong
    evidence of one family is not outweighed by families without any.

    Args:
        surprises: The surprise -ln p of each image by each group of statistics.
        shares: The weights of the groups, ``(kinds,)``.

    >>> merge(np.array([[3.0, 3.0]]), weights(("whole", "local"))).round(6).tolist()
    [3.0]
    """
    merged: Array = logsumexp(surprises, shares)
    return merged


@dataclass(frozen=True)
class HeldOutSurprises:
    """Distributions of negative log p-values on held-out normal images, one for each kind of statistics.

    These values are called surprises. Kinds of statistics are those of the whole image, of its regions and of its
    features.

    Attributes:
        tails: The survival function of each group's surprise.
        inflation: The median surprise of each group over ln 2, its value without overfitting, ``(kinds,)``. It is at
            least 1, and more for groups that few images were fitted to.
    """

    tails: tuple[Tail, ...]
    inflation: Array

    @classmethod
    def fit(cls, surprises: Array, least: Array) -> Self:
        """Fit one distribution per group of statistics to the negative log p-values of held-out images.

        Args:
            surprises: The negative log p-values, ``(N, kinds)`` in nats.
            least: The smallest inflation of each group, ``(kinds,)``.
        """
        medians = np.median(surprises, axis=0)
        return cls(tuple(Tail.fit(column) for column in surprises.T), np.maximum(least, medians / TYPICAL))


@dataclass(frozen=True)
class Statistic:
    """Anomaly statistic of an image, merged from groups of statistics: whole image, regions and features.

    It is T = -ln p, where p is merged from the p-values of the groups.

    T is in nats, about -ln of the probability of evidence at least as strong.

    Attributes:
        whole: Statistics of the whole image; None for a density of features alone.
        local: Statistics of regions of the log-density of pixels; None where there are none. Otherwise the unevenness
            of the regions is one of the statistics of the whole image.
        features: Statistics of the features of a backbone; None for a density of pixels alone.
        held_out: For pixels and features together: each group's surprises over images that it was not fitted to, in
            the order of :attr:`kinds`.
    """

    whole: WholeFamily | None
    local: LocalFamily | None
    features: FeatureFamily | None = None
    held_out: HeldOutSurprises | None = None

    @property
    def kinds(self) -> tuple[EvidenceKind, ...]:
        """The names of the groups of anomaly statistics in use: "whole", "local" (image regions) or "features".

        The order is that of :meth:`families`.
        """
        groups: dict[EvidenceKind, object] = {"whole": self.whole, "local": self.local, "features": self.features}
        return tuple(kind for kind, group in groups.items() if group is not None)

    @property
    def weights(self) -> Array:
        """The weight of each group of anomaly statistics in the weighted harmonic mean of all groups' p-values.

        The order is that of :attr:`kinds`, ``(kinds,)``. The weights sum to 1.
        """
        return weights(self.kinds, self.held_out)

    def names(self, names: Sequence[str]) -> list[str]:
        """Return the name of each image statistic, in the order of the columns of :meth:`statistics`.

        First come statistics of the whole image, then ``unevenness-1`` and so on, then statistics of channels.

        Unevenness is how much the log-density varies over the regions of a shape. ``names`` are those of the statistics
        that the forward pass gives.
        """
        shapes = 0 if self.local is None else len(regions(*self.local.shape))
        of_image = [name for name in names if not is_channel_statistic(name)]
        of_channels = [name for name in names if is_channel_statistic(name)]
        return [*of_image, *(f"unevenness-{number}" for number in range(1, shapes + 1)), *of_channels]

    def statistics(self, evidence: Evidence) -> Array:
        """Return the whole-image statistics of images, as an array with one row for each image.

        The shape is ``(N, K)``. The first column is image complexity, an entropy in bits/dim.

        The unevenness of the log-density by region shape follows, then the statistics of channels: calibrations hold
        numbers of columns, and those of earlier versions know none of channels.
        """
        columns = [evidence.whole]
        if self.local is not None:
            columns.append(self.local.unevenness(evidence.cells))
        if evidence.channels is not None:
            columns.append(evidence.channels)
        return np.concatenate(columns, 1)

    def families(self, evidence: Evidence) -> Array:
        """Return the negative log p-values of each image, one for each group (family) of anomaly statistics.

        The groups are statistics of the whole image, of regions and of features, as far as the calibration has them.
        The shape is ``(N, kinds)``, in nats.

        The columns are those of :attr:`kinds`.
        """
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
