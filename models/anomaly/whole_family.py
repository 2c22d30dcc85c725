"""The family of whole-image statistics: how surprising they are together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.anomaly.conditioning import Conditioning
from models.anomaly.gaussian import Gaussian
from models.anomaly.mixture import Mixture
from models.anomaly.tails import Tail
from models.anomaly.whole_image import COMPLEXITY, PIXEL_TERM

Array = NDArray[np.float64]

ROUNDING_NOISE = np.log(1e-12)
"""A learned inverse whose relative squared error is smaller than this is exact to its float32 weights."""
SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class WholeFamily:
    """Two views of the whole-image statistics, added up as evidence (Fisher's combination).

    One is the density of all statistics. The other is the density of the few that say what kind of image this is:
    complexity, the pixel transform's term, the volumes of all scales. Both are mixtures, so that what is usual depends
    on complexity. Each becomes a surprise -ln P(T >= t) by its tail; the sum is made one again by ``joint``.

    ``used``: the columns that carry information besides complexity, ``(k,)``; ``kind_columns``: those of the second
    view. For explanations each statistic is standardised given complexity, and ``gaussian`` shares the distance out.
    """

    used: NDArray[np.int64]
    kind_columns: NDArray[np.int64]
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    overall: Mixture
    overall_tail: Tail
    kind: Mixture
    kind_tail: Tail
    joint: Tail

    @classmethod
    def fit(cls, statistics: Array, names: Sequence[str]) -> Self:
        """Fit to the statistics ``(n, K)`` of reference images; the first is complexity."""
        used = np.array([i for i, name in enumerate(names) if i and _informs(name, statistics[:, i])], dtype=np.int64)
        complexity = statistics[:, 0]
        location, scale = np.atleast_1d(complexity.mean()), np.atleast_1d(max(float(complexity.std()), 1e-9))
        conditioning = Conditioning.fit(statistics[:, used], complexity)
        standardised = _standardise(statistics, used, location, scale, conditioning)
        volumes = [i for i, name in enumerate(names) if name.startswith("volume-")]
        columns = np.array([names.index(COMPLEXITY), names.index(PIXEL_TERM), *volumes], dtype=np.int64)
        overall = Mixture.fit(statistics[:, [0, *used]], images_a_component=500, regularisation=1e-2)
        kind = Mixture.fit(statistics[:, columns], images_a_component=200, regularisation=1e-3)
        found = overall.surprisal(statistics[:, [0, *used]]), kind.surprisal(statistics[:, columns])
        tails = Tail.fit(found[0]), Tail.fit(found[1])
        return cls(
            used,
            columns,
            location,
            scale,
            conditioning,
            Gaussian.fit(standardised),
            overall,
            tails[0],
            kind,
            tails[1],
            Tail.fit(tails[0].surprise(found[0]) + tails[1].surprise(found[1])),
        )

    def standardised(self, statistics: Array) -> Array:
        """Return the statistics that are used given complexity, and complexity itself, ``(N, k + 1)``."""
        return _standardise(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return what each of :meth:`standardised` adds to the distance, as a root with a sign, ``(N, k + 1)``."""
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln P of evidence as strong as this, ``(N, K)`` -> ``(N,)``, in nats."""
        overall = self.overall.surprisal(statistics[:, [0, *self.used]])
        kind = self.kind.surprisal(statistics[:, self.kind_columns])
        return self.joint.surprise(self.overall_tail.surprise(overall) + self.kind_tail.surprise(kind))


def _informs(name: str, values: Array) -> bool:
    if name.startswith("reconstruction-") and np.median(values) < ROUNDING_NOISE:
        return False
    return bool(values.std() > SMALLEST_SPREAD)


def _standardise(
    statistics: Array, used: NDArray[np.int64], location: Array, scale: Array, conditioning: Conditioning
) -> Array:
    given = conditioning(statistics[:, used], statistics[:, 0])
    return np.concatenate([given, (statistics[:, :1] - location) / scale], axis=1)
