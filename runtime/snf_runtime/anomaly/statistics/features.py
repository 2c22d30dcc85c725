"""Anomaly statistics of backbone features: the most unusual place and area, and means over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import MIN_IMAGES_LINE, Conditioning
from snf_runtime.anomaly.density.tails import Tail
from snf_runtime.numerics import logsumexp
from snf_runtime.scoring.evidence import FeatureEvidence

Array = NDArray[np.float64]

FEATURE_STATISTICS = ("feature-place", "feature-area", "feature-mean", "feature-image")
"""Names of the statistics: the largest place, the mean of the highest places, both groups of pooled features."""
SHARES = (2 / 6, 2 / 6, 1 / 6, 1 / 6)
"""Weights of their p-values: both groups of pooled features together weigh as much as the place."""
SHARES_OF_TILES = (0.9, 0.04, 0.03, 0.03)
"""The same for images of several tiles: a small defect is one place of many thousands, which no mean shows."""
AREA = 0.05
"""Share of the places, the highest ones, that the second statistic averages."""
PLACE_FIRST = math.log(3)
"""Pooled features are the reason only where their -ln p is larger by this: a reason with a place helps more."""


@dataclass(frozen=True)
class FeatureFamily:
    """Four statistics of features, merged into one p-value: two of the map of places, two of pooled features."""

    fit_number: NDArray[np.int64]
    centre: Array  # mean -log-density at each place, nats
    tails: tuple[Tail, Tail, Tail, Tail]
    joint: Tail
    sizes: Conditioning | None = None  # by ln of the number of places; None if all are of one size

    @classmethod
    def fit(cls, evidence: FeatureEvidence) -> Self:
        """Fit the centre of the maps and the tails to normal images, with fit 0 of the features."""
        centre = evidence.places[:, 0].mean(0, dtype=np.float64)
        values, sizes = _statistics(evidence, 0, centre), None
        places = _log_places(evidence)
        if len(np.unique(places)) > 1:
            # Lines whatever the number of images: a largest value grows with the logarithm of the number of places.
            sizes = Conditioning.fit(values, places, MIN_IMAGES_LINE)
            values = _relative(sizes, values, places)
        place, area, mean, image = (Tail.fit(column) for column in values.T)
        tails = place, area, mean, image
        joint = Tail.fit(_merged(values, tails, _shares(evidence)))
        return cls(np.zeros(1, dtype=np.int64), centre, tails, joint, sizes)

    def for_fit(self, number: int) -> Self:
        """Return a copy that judges by another fit: 0 is to all training images, others leave a part out."""
        return replace(self, fit_number=np.array([number], dtype=np.int64))

    def maps(self, evidence: FeatureEvidence) -> list[Array]:
        """Return each image's negative log-densities at places less their means over normal images, nats."""
        return _maps(evidence, int(self.fit_number[0]), self.centre)

    def statistics(self, evidence: FeatureEvidence) -> Array:
        """Return the columns of ``FEATURE_STATISTICS`` for each image, in nats."""
        return _statistics(evidence, int(self.fit_number[0]), self.centre)

    def surprises(self, evidence: FeatureEvidence) -> Array:
        """Return -ln p of the columns of :meth:`statistics`."""
        return _surprises(self._of_size(evidence), self.tails)

    def surprise(self, evidence: FeatureEvidence) -> Array:
        """Return -ln p of each image, merged from all four statistics."""
        return self.joint.surprise(_merged(self._of_size(evidence), self.tails, _shares(evidence)))

    def _of_size(self, evidence: FeatureEvidence) -> Array:
        """Return the statistics, relative to normal images of the same size if sizes differ, ``(N, 4)``."""
        values = self.statistics(evidence)
        return values if self.sizes is None else _relative(self.sizes, values, _log_places(evidence))

    def strongest(self, evidence: FeatureEvidence) -> list[tuple[str, float, tuple[int, int]]]:
        """Return each image's most unusual statistic, its -ln p, and row and column of its most unusual place."""
        surprises = self.surprises(evidence)
        preferred = surprises - np.array([0.0, 0.0, PLACE_FIRST, PLACE_FIRST])
        return [
            (FEATURE_STATISTICS[best], float(row[best]), divmod(int(of_image.argmax()), of_image.shape[1]))
            for row, best, of_image in zip(surprises, preferred.argmax(1).tolist(), self.maps(evidence), strict=True)
        ]

    def strongest_tile(self, evidence: FeatureEvidence, number: int, name: str) -> tuple[int, int, int, int] | None:
        """Return the box of the most unusual tile; None for a statistic of places, and for images of one tile."""
        group = FEATURE_STATISTICS.index(name) - 2
        if evidence.plans is None or group < 0:
            return None
        start, stop = evidence.tiles[number]
        return evidence.plans[number].box(int(evidence.pooled[start:stop, int(self.fit_number[0]), group].argmax()))


def _maps(evidence: FeatureEvidence, number: int, centre: Array) -> list[Array]:
    if evidence.plans is None:
        return list(evidence.places[:, number] - centre)
    return [
        plan.merged(evidence.places[start:stop, number] - centre)
        for plan, (start, stop) in zip(evidence.plans, evidence.tiles, strict=True)
    ]


def _statistics(evidence: FeatureEvidence, number: int, centre: Array) -> Array:
    pooled = evidence.pooled[:, number]
    if evidence.plans is None:
        of_places = _of_maps((evidence.places[:, number] - centre).reshape(len(evidence), -1))
    else:
        maps = [_of_maps(of_image.reshape(1, -1)) for of_image in _maps(evidence, number, centre)]
        of_places = np.concatenate([np.zeros((0, 2)), *maps])
        # For normal images as for new ones: a maximum is ranked among maxima.
        largest = [pooled[start:stop].max(0) for start, stop in evidence.tiles]
        pooled = np.stack([pooled[0], *largest])[1:] if largest else pooled
    return np.concatenate([of_places, pooled], 1)


def _log_places(evidence: FeatureEvidence) -> Array:
    """Return the logarithm of the number of places of each image, ``(N,)``; 0 where all images are single tiles."""
    return np.log([math.prod(plan.grid) for plan in evidence.plans]) if evidence.plans else np.zeros(len(evidence))


def _relative(sizes: Conditioning, values: Array, places: Array) -> Array:
    # Image by image: the last digits of a product of matrices depend on its number of rows.
    rows = [sizes(values[image : image + 1], places[image : image + 1]) for image in range(len(values))]
    return np.concatenate([np.zeros((0, values.shape[1])), *rows])


def _of_maps(maps: Array) -> Array:
    """Return the largest value of each map, and the mean of its highest twentieth, ``(N, places) -> (N, 2)``."""
    count = max(1, math.ceil(AREA * maps.shape[1]))
    highest = np.partition(maps, -count, axis=1)[:, -count:] if count < maps.shape[1] else maps
    return np.stack([maps.max(1), np.sort(highest, axis=1).mean(1)], 1)


def _surprises(values: Array, tails: tuple[Tail, Tail, Tail, Tail]) -> Array:
    return np.stack([tail.surprise(column) for tail, column in zip(tails, values.T, strict=True)], 1)


def _merged(values: Array, tails: tuple[Tail, Tail, Tail, Tail], shares: Sequence[float]) -> Array:
    merged: Array = logsumexp(_surprises(values, tails), np.array(shares))
    return merged


def _shares(evidence: FeatureEvidence) -> Sequence[float]:
    return SHARES if evidence.plans is None else SHARES_OF_TILES
