"""A Gaussian with a shrunk covariance: Mahalanobis distances and the share of each coordinate in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """A multivariate normal distribution over K coordinates, with mean μ and covariance Σ, fitted to samples.

    Attributes:
        mean: μ, ``(K,)``.
        root: The symmetric root Σ^-1/2, ``(K, K)``.
    """

    mean: Array
    root: Array

    @classmethod
    def fit(cls, samples: Array) -> Self:
        """Return the Gaussian fitted to samples, ``(n, K)``, with the shrunk covariance of Ledoit & Wolf 2004."""
        values, vectors = np.linalg.eigh(shrunk_covariance(samples - samples.mean(0)))
        root = (vectors / np.sqrt(values)) @ vectors.T
        return cls(samples.mean(0), root)

    def components(self, samples: Array) -> Array:
        """Return whitened samples w = Σ^-1/2 (u - μ), ``(N, K)``: uncorrelated coordinates with variance 1.

        The squares of a row add up to the squared Mahalanobis distance, so that each is the share of one coordinate.
        Among all whitened coordinates these are closest to u (ZCA whitening, Kessy et al. 2018).
        """
        whitened: Array = (samples - self.mean) @ self.root
        return whitened


def shrunk_covariance(centred: Array) -> Array:
    """Return the Ledoit-Wolf covariance, ``(K, K)``, of samples with mean 0, ``(n, K)``; it always has an inverse."""
    from sklearn.covariance import ledoit_wolf  # noqa: PLC0415 - only fitting needs it, and it takes time to load

    covariance: Array = ledoit_wolf(centred, assume_centered=True)[0]
    smallest = 1e-9 * max(float(np.trace(covariance)) / len(covariance), 1e-9)
    return covariance + smallest * np.eye(len(covariance))
