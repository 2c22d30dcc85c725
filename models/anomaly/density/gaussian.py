"""A Gaussian whose covariance is shrunk: distances, and what each coordinate has to do with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """``mean``, ``(K,)``, and ``root``, the symmetric Σ^-1/2, ``(K, K)``."""

    mean: Array
    root: Array

    @classmethod
    def fit(cls, samples: Array) -> Self:
        """Fit to ``(n, K)``; Σ by Ledoit & Wolf 2004."""
        values, vectors = np.linalg.eigh(shrunk_covariance(samples - samples.mean(0)))
        root = (vectors / np.sqrt(values)) @ vectors.T
        return cls(samples.mean(0), root)

    def components(self, samples: Array) -> Array:
        """Return w = Σ^-1/2 (u - μ), ``(N, K)``: uncorrelated, and as close to u as such coordinates can be.

        Their squares add up to the squared Mahalanobis distance, so each is a coordinate's share of it (Kessy et al.
        2018, ZCA whitening).
        """
        found: Array = (samples - self.mean) @ self.root
        return found


def shrunk_covariance(centred: Array) -> Array:
    """Return the Ledoit-Wolf covariance of centred samples ``(n, K)``, never singular."""
    from sklearn.covariance import ledoit_wolf  # noqa: PLC0415 - only fitting needs it, and it takes time to load

    covariance: Array = ledoit_wolf(centred, assume_centered=True)[0]
    smallest = 1e-9 * max(float(np.trace(covariance)) / len(covariance), 1e-9)
    return covariance + smallest * np.eye(len(covariance))
