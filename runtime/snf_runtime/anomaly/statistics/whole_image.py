"""Densities of whole-image statistics, combined into one p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.gaussian import Gaussian
from snf_runtime.anomaly.density.mixture import Mixture
from snf_runtime.anomaly.density.tails import Tail
from snf_runtime.scoring.whole_image import PIXEL_TERM

Array = NDArray[np.float64]

ROUNDING_NOISE = np.log(1e-12)
"""Log of the relative squared error below which a learned inverse is exact to its float32 weights."""
MIN_SPREAD = 1e-12


@dataclass(frozen=True)
class DensityView:
    """A Gaussian mixture fitted to some whole-image statistics of normal images; it gives new images their -ln p."""

    columns: NDArray[np.int64]
    density: Mixture
    tail: Tail

    @classmethod
    def fit(cls, statistics: Array, columns: Sequence[int], images_a_component: int, regularisation: float) -> Self:
        """Return the Gaussian mixture fitted to the given columns of statistics, ``(n, K)``, of normal images."""
        chosen = np.array(columns, dtype=np.int64)
        density = Mixture.fit(statistics[:, chosen], images_a_component, regularisation)
        return cls(chosen, density, Tail.fit(density.surprisal(statistics[:, chosen])))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln p of each image in nats, ``(N, K)`` -> ``(N,)``; p is the chance of a density so small."""
        return self.tail.surprise(self.density.surprisal(statistics[:, self.columns]))


@dataclass(frozen=True)
class WholeFamily:
    """Three densities of whole-image statistics of normal images; their p-values are combined by Fisher's method.

    The three values of -ln p are added.

    The first density is that of the statistics that tell clusters of images apart: complexity, the term of the pixel
    transform and the volumes of all scales. The second adds the unevenness of regions, the third has all statistics.
    All are mixtures, so that the usual values depend on complexity.

    Attributes:
        used: Columns of the statistics that carry information besides complexity, ``(k,)``.
        location: Mean complexity, ``(1,)``.
        scale: Standard deviation of complexity, ``(1,)``.
        conditioning: The standardisation of the used statistics, for explanations.
        gaussian: The density of the standardised statistics, which gives each its share in an explanation.
        views: The three densities.
        joint: The survival function of the sum of the three surprises.
    """

    used: NDArray[np.int64]
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    views: tuple[DensityView, DensityView, DensityView]
    joint: Tail

    @classmethod
    def fit(cls, statistics: Array, names: Sequence[str]) -> Self:
        """Return three densities fitted to statistics, ``(n, K)``, of normal images; column 0 is image complexity."""
        used = np.array([i for i, name in enumerate(names) if i and _informs(name, statistics[:, i])], dtype=np.int64)
        complexity = statistics[:, 0]
        location, scale = np.atleast_1d(complexity.mean()), np.atleast_1d(max(float(complexity.std()), 1e-9))
        conditioning = Conditioning.fit(statistics[:, used], complexity)
        standardised = _standardise(statistics, used, location, scale, conditioning)
        kind = [0, names.index(PIXEL_TERM), *_named(names, "volume-")]
        layout = [*kind, *_named(names, "unevenness-")]
        views = (
            DensityView.fit(statistics, kind, images_a_component=200, regularisation=1e-3),
            DensityView.fit(statistics, layout, images_a_component=500, regularisation=1e-2),
            DensityView.fit(statistics, [0, *used], images_a_component=500, regularisation=1e-2),
        )
        total = np.sum([view.surprise(statistics) for view in views], axis=0)
        gaussian = Gaussian.fit(standardised)
        return cls(used, location, scale, conditioning, gaussian, views, Tail.fit(total))

    def standardised(self, statistics: Array) -> Array:
        """Return z-scores, ``(N, k + 1)``: k statistics relative to images of like complexity, then complexity itself.

        The k statistics are those that carry information besides complexity.
        """
        return _standardise(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return uncorrelated statistics, ``(N, k + 1)``, whose squares add up to the squared Mahalanobis distance."""
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln p of each image in nats, ``(N, K)`` -> ``(N,)``; Fisher's method joins three p-values to p."""
        return self.joint.surprise(np.sum([view.surprise(statistics) for view in self.views], axis=0))


def _named(names: Sequence[str], start: str) -> list[int]:
    return [index for index, name in enumerate(names) if name.startswith(start)]


def _informs(name: str, values: Array) -> bool:
    if name.startswith("reconstruction-") and np.median(values) < ROUNDING_NOISE:
        return False
    return bool(values.std() > MIN_SPREAD)


def _standardise(
    statistics: Array, used: NDArray[np.int64], location: Array, scale: Array, conditioning: Conditioning
) -> Array:
    given = conditioning(statistics[:, used], statistics[:, 0])
    return np.concatenate([given, (statistics[:, :1] - location) / scale], axis=1)
