"""Densities of whole-image statistics, combined into one p-value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.gaussian import Gaussian
from snf_runtime.anomaly.density.mixture import Mixture
from snf_runtime.anomaly.density.tails import Tail

Array = NDArray[np.float64]

SHARES = {3: (1.0, 1.0, 1.0), 4: (1.0, 1.0, 2.0, 2.0)}
"""By the number of densities, the factor of each in the sum: those of all statistics and of channels detect most."""


@dataclass(frozen=True)
class DensityView:
    """A Gaussian mixture fitted to some whole-image statistics of normal images; it gives new images their -ln p."""

    columns: NDArray[np.int64]
    density: Mixture
    tail: Tail

    def surprise(self, statistics: Array) -> Array:
        """Return -ln p of each image in nats, ``(N, K)`` -> ``(N,)``; p is the chance of a density so small."""
        return self.tail.surprise(self.surprisal(statistics))

    def surprisal(self, statistics: Array) -> Array:
        """Return -ln of the density of each image in nats, ``(N, K)`` -> ``(N,)``."""
        return self.density.surprisal(statistics[:, self.columns])


@dataclass(frozen=True)
class WholeFamily:
    """Densities of whole-image statistics of normal images; their p-values are combined by Fisher's method.

    Their values of -ln p are added, each with its share (Good 1955).

    The first density is that of the statistics that tell clusters of images apart: complexity, the term of the pixel
    transform and the volumes of all scales. The second adds the unevenness of regions, the third has all statistics
    but those of channels. The fourth has those of channels, correlations of neighbours and complexity. All are
    mixtures, so that the usual values depend on complexity.

    Attributes:
        used: Columns of the statistics that carry information besides complexity, ``(k,)``.
        location: Mean complexity, ``(1,)``.
        scale: Standard deviation of complexity, ``(1,)``.
        conditioning: The standardisation of the used statistics, for explanations.
        gaussian: The density of the standardised statistics, which gives each its share in an explanation.
        views: The densities: three, or four where the flow has statistics of channels.
        joint: The survival function of the sum of their surprises.
    """

    used: NDArray[np.int64]
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    views: tuple[DensityView, ...]
    joint: Tail

    def __post_init__(self) -> None:
        if len(self.views) not in SHARES:
            raise ValueError(f"expected 3 or 4 densities of whole-image statistics, got {len(self.views)}")

    def standardised(self, statistics: Array) -> Array:
        """Return z-scores, ``(N, k + 1)``: k statistics relative to images of like complexity, then complexity itself.

        The k statistics are those that carry information besides complexity.
        """
        return z_scores(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return uncorrelated statistics, ``(N, k + 1)``, whose squares add up to the squared Mahalanobis distance."""
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln p of each image in nats, ``(N, K)`` -> ``(N,)``; Fisher's method joins the p-values to p."""
        return self.joint.surprise(total_surprise(np.stack([view.surprise(statistics) for view in self.views], 1)))

    def surprisals(self, statistics: Array) -> Array:
        """Return -ln of each density of each image in nats, ``(N, K)`` -> ``(N, views)``."""
        return np.stack([view.surprisal(statistics) for view in self.views], 1)


def total_surprise(surprises: Array) -> Array:
    """Return the sum of the surprises of all views by their shares, ``(N, views)`` -> ``(N,)`` in nats."""
    total: Array = np.sum(surprises * np.array(SHARES[surprises.shape[1]]), axis=1)
    return total


def z_scores(
    statistics: Array, used: NDArray[np.int64], location: Array, scale: Array, conditioning: Conditioning
) -> Array:
    """Return used statistics given complexity, then complexity itself, as z-scores, ``(N, K)`` -> ``(N, k + 1)``."""
    given = conditioning(statistics[:, used], statistics[:, 0])
    return np.concatenate([given, (statistics[:, :1] - location) / scale], axis=1)
