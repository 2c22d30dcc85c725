"""Gaussian distribution with a shrunk covariance, for Mahalanobis distances split by coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """A multivariate normal distribution that is fitted to samples.

    It has K coordinates, mean μ and covariance Σ.

    Attributes:
        mean: μ, ``(K,)``.
        root: The symmetric root Σ^-1/2, ``(K, K)``.
    """

    mean: Array
    root: Array

    def components(self, samples: Array) -> Array:
        """Convert samples to whitened coordinates: under this Gaussian they are uncorrelated with variance 1.

        They are w = Σ^-1/2 (u - μ) for samples u, ``(N, K)``.

        The squares of a row add up to the squared Mahalanobis distance, so that each is the share of one coordinate.
        Among all whitened coordinates these are closest to u (ZCA whitening, Kessy et al. 2018).
        """
        whitened: Array = (samples - self.mean) @ self.root
        return whitened
