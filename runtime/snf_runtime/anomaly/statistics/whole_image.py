"""Gaussian mixtures of whole-image statistics, and the combination of their p-values into one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.gaussian import Gaussian
from snf_runtime.anomaly.density.mixture import Mixture
from snf_runtime.anomaly.density.tails import Tail

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DensityView:
    """Gaussian mixture over some columns of whole-image statistics, fitted to normal images."""

    columns: NDArray[np.int64]
    density: Mixture
    tail: Tail

    def surprise(self, statistics: Array) -> Array:
        """Return -ln of the probability that a normal image has a density at most as large."""
        return self.tail.surprise(self.surprisal(statistics))

    def surprisal(self, statistics: Array) -> Array:
        """Return the negative log-density of each image, in nats."""
        return self.density.surprisal(statistics[:, self.columns])


@dataclass(frozen=True)
class WholeFamily:
    """Mixtures over sets of whole-image statistics, whose weighted -ln p are added (Fisher; Good 1955)."""

    used: NDArray[np.int64]  # columns that carry information besides complexity
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    views: tuple[DensityView, ...]
    joint: Tail
    shares: Array | None = None  # None without statistics of channels: all are 1

    def __post_init__(self) -> None:
        shape = None if self.shares is None else self.shares.shape
        if (len(self.views), shape) not in ((3, None), (4, (4,))):
            raise ValueError(
                f"expected 3 densities of the whole image, or 4 with 4 shares, got {len(self.views)}, shares {shape}"
            )

    def standardised(self, statistics: Array) -> Array:
        """Return k statistics relative to images of like complexity, then complexity itself, ``(N, k + 1)``."""
        return z_scores(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return uncorrelated z-scores whose squares sum to the squared Mahalanobis distance, ``(N, k + 1)``."""
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln p of each image: the sum over the densities by its distribution over normal images."""
        surprises = np.stack([view.surprise(statistics) for view in self.views], 1)
        return self.joint.surprise(total_surprise(surprises, self.shares))

    def surprisals(self, statistics: Array) -> Array:
        """Return the negative log-densities of each image, ``(N, views)``."""
        return np.stack([view.surprisal(statistics) for view in self.views], 1)


def total_surprise(surprises: Array, shares: Array | None) -> Array:
    """Return the weighted sum of surprises over views; ``shares`` None stands for 1 each."""
    total: Array = np.sum(surprises if shares is None else surprises * shares, axis=1)
    return total


def z_scores(
    statistics: Array, used: NDArray[np.int64], location: Array, scale: Array, conditioning: Conditioning
) -> Array:
    """Return the columns ``used`` relative to images of like complexity, then complexity itself, ``(N, k + 1)``."""
    given = conditioning(statistics[:, used], statistics[:, 0])
    return np.concatenate([given, (statistics[:, :1] - location) / scale], axis=1)
