"""Gaussian distribution with a shrunk covariance, for Mahalanobis distances split by coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """A multivariate normal distribution that is fitted to samples, with mean μ and root Σ^-1/2."""

    mean: Array
    root: Array

    def components(self, samples: Array) -> Array:
        """Return Σ^-1/2 (u - μ), whose squares sum to the squared Mahalanobis distance (ZCA, Kessy et al. 2018)."""
        whitened: Array = (samples - self.mean) @ self.root
        return whitened
