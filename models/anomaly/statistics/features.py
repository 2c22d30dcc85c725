"""Statistics of the features of a backbone: the most unusual place and area, and means over the image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from models.anomaly.density.tails import Tail
from models.scoring.evidence import FeatureEvidence

Array = NDArray[np.float64]

FEATURE_STATISTICS = ("feature-place", "feature-area", "feature-mean", "feature-image")
"""Names of the statistics: the largest place, the mean of the highest places, both groups of pooled features."""
SHARES = (2 / 6, 2 / 6, 1 / 6, 1 / 6)
"""Weights of their p-values: both groups of pooled features together weigh as much as the place."""
AREA = 0.05
"""Share of the places, the highest ones, that the second statistic averages."""
PLACE_FIRST = math.log(3)
"""Pooled features are the reason only where their -ln p is larger by this: a reason with a place helps more."""


@dataclass(frozen=True)
class FeatureFamily:
    """Four statistics of the features of an image, merged into one p-value.

    The negative log-density at each place, less its mean over normal images, is a map: places that vary little have
    large densities, and without centring a few of them would decide. The statistics are the largest value of the map,
    the mean of its highest twentieth, and the negative log-densities of the means of the features at places and of the
    deepest features.

    Attributes:
        fit_number: Which of several fits of the features is judged by, ``(1,)``.
        centre: Means of the negative log-density at each place, ``(rows, columns)`` in nats.
        tails: The survival function of each statistic.
        joint: The survival function of the merged surprise.
    """

    fit_number: NDArray[np.int64]
    centre: Array
    tails: tuple[Tail, Tail, Tail, Tail]
    joint: Tail

    @classmethod
    def fit(cls, evidence: FeatureEvidence) -> Self:
        """Fit the centre and the survival functions to normal images, by the first fit of their features."""
        centre = evidence.places[:, 0].mean(0)
        values = _statistics(evidence, 0, centre)
        place, area, mean, image = (Tail.fit(column) for column in values.T)
        tails = place, area, mean, image
        return cls(np.zeros(1, dtype=np.int64), centre, tails, Tail.fit(_merged(values, tails)))

    def for_fit(self, number: int) -> Self:
        """Return a copy that judges by another fit of the features."""
        return replace(self, fit_number=np.array([number], dtype=np.int64))

    def centred(self, evidence: FeatureEvidence) -> Array:
        """Return the negative log-density at each place less its mean, ``(N, rows, columns)`` in nats."""
        return evidence.places[:, int(self.fit_number[0])] - self.centre

    def maps(self, evidence: FeatureEvidence) -> list[Array]:
        """Return the map of each image: the centred negative log-density at its places, ``(rows, columns)`` in nats."""
        return list(self.centred(evidence))

    def statistics(self, evidence: FeatureEvidence) -> Array:
        """Return the four statistics of each image, ``(N, 4)`` in nats, in the order of their names."""
        return _statistics(evidence, int(self.fit_number[0]), self.centre)

    def surprises(self, evidence: FeatureEvidence) -> Array:
        """Return the negative log p-value of each image by each of the four statistics, ``(N, 4)`` in nats."""
        return _surprises(self.statistics(evidence), self.tails)

    def surprise(self, evidence: FeatureEvidence) -> Array:
        """Return the negative log p-value of each image by its features, ``(N,)`` in nats."""
        return self.joint.surprise(_merged(self.statistics(evidence), self.tails))

    def strongest(self, evidence: FeatureEvidence) -> list[tuple[str, float, tuple[int, int]]]:
        """Return the name of each image's most unusual statistic, its -ln p in nats, and row and column of its place.

        The place is the one with the largest centred negative log-density. A statistic of pooled features is named
        only where its p-value is less than a third of those of the statistics with a place.
        """
        surprises = self.surprises(evidence)
        preferred = surprises - np.array([0.0, 0.0, PLACE_FIRST, PLACE_FIRST])
        flat = self.centred(evidence).reshape(len(evidence), -1).argmax(1)
        columns = self.centre.shape[1]
        return [
            (FEATURE_STATISTICS[best], float(row[best]), divmod(int(place), columns))
            for row, best, place in zip(surprises, preferred.argmax(1).tolist(), flat.tolist(), strict=True)
        ]


def _statistics(evidence: FeatureEvidence, number: int, centre: Array) -> Array:
    maps = (evidence.places[:, number] - centre).reshape(len(evidence), -1)
    count = max(1, math.ceil(AREA * maps.shape[1]))
    highest = np.partition(maps, -count, axis=1)[:, -count:] if count < maps.shape[1] else maps
    of_places = np.stack([maps.max(1), np.sort(highest, axis=1).mean(1)], 1)
    return np.concatenate([of_places, evidence.pooled[:, number]], 1)


def _surprises(values: Array, tails: tuple[Tail, Tail, Tail, Tail]) -> Array:
    return np.stack([tail.surprise(column) for tail, column in zip(tails, values.T, strict=True)], 1)


def _merged(values: Array, tails: tuple[Tail, Tail, Tail, Tail]) -> Array:
    merged: Array = logsumexp(_surprises(values, tails), axis=1, b=np.array(SHARES))
    return merged
