"""The family of whole-image statistics: how surprising they are together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.anomaly.density.conditioning import Conditioning
from models.anomaly.density.gaussian import Gaussian
from models.anomaly.density.mixture import Mixture
from models.anomaly.density.tails import Tail
from models.scoring.whole_image import PIXEL_TERM

Array = NDArray[np.float64]

ROUNDING_NOISE = np.log(1e-12)
"""A learned inverse whose relative squared error is smaller than this is exact to its float32 weights."""
MIN_SPREAD = 1e-12


@dataclass(frozen=True)
class View:
    """The density of some of the statistics; ``columns``: which, ``(k,)``."""

    columns: NDArray[np.int64]
    density: Mixture
    tail: Tail

    @classmethod
    def fit(cls, statistics: Array, columns: Sequence[int], images_a_component: int, regularisation: float) -> Self:
        """Fit to the statistics ``(n, K)`` of reference images."""
        chosen = np.array(columns, dtype=np.int64)
        density = Mixture.fit(statistics[:, chosen], images_a_component, regularisation)
        return cls(chosen, density, Tail.fit(density.surprisal(statistics[:, chosen])))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln P of a density as small as this, ``(N, K)`` -> ``(N,)``, in nats."""
        return self.tail.surprise(self.density.surprisal(statistics[:, self.columns]))


@dataclass(frozen=True)
class WholeFamily:
    """Three views of the whole-image statistics, added up as evidence (Fisher's combination).

    The density of the few that say what kind of image this is: complexity, the pixel transform's term, the volumes of
    all scales; that of these with the unevenness of regions; that of all statistics. All are mixtures, so that what is
    usual depends on complexity. Each becomes a surprise -ln P(T >= t) by its tail; the sum is made one again by
    ``joint``.

    ``used``: the columns that carry information besides complexity, ``(k,)``. For explanations each of them is
    standardised given complexity, and ``gaussian`` shares the distance out.
    """

    used: NDArray[np.int64]
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    views: tuple[View, View, View]
    joint: Tail

    @classmethod
    def fit(cls, statistics: Array, names: Sequence[str]) -> Self:
        """Fit to the statistics ``(n, K)`` of reference images; the first is complexity."""
        used = np.array([i for i, name in enumerate(names) if i and _informs(name, statistics[:, i])], dtype=np.int64)
        complexity = statistics[:, 0]
        location, scale = np.atleast_1d(complexity.mean()), np.atleast_1d(max(float(complexity.std()), 1e-9))
        conditioning = Conditioning.fit(statistics[:, used], complexity)
        standardised = _standardise(statistics, used, location, scale, conditioning)
        kind = [0, names.index(PIXEL_TERM), *_named(names, "volume-")]
        layout = [*kind, *_named(names, "unevenness-")]
        views = (
            View.fit(statistics, kind, images_a_component=200, regularisation=1e-3),
            View.fit(statistics, layout, images_a_component=500, regularisation=1e-2),
            View.fit(statistics, [0, *used], images_a_component=500, regularisation=1e-2),
        )
        total = np.sum([view.surprise(statistics) for view in views], axis=0)
        gaussian = Gaussian.fit(standardised)
        return cls(used, location, scale, conditioning, gaussian, views, Tail.fit(total))

    def standardised(self, statistics: Array) -> Array:
        """Return the statistics that are used given complexity, and complexity itself, ``(N, k + 1)``."""
        return _standardise(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return what each of :meth:`standardised` adds to the distance, as a root with a sign, ``(N, k + 1)``."""
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln P of evidence as strong as this, ``(N, K)`` -> ``(N,)``, in nats."""
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
