"""Gaussian-mixture densities of the statistics of images, which form clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.gaussian import Gaussian
from snf_runtime.numerics import logsumexp

Array = NDArray[np.float64]

MAX_COMPONENTS = 5
MIN_SPREAD = 1e-9


@dataclass(frozen=True)
class Mixture:
    """A probability density of K statistics of an image: a weighted sum of m Gaussians, fitted to normal images.

    Attributes:
        location: Means of the statistics, ``(K,)``.
        scale: Their standard deviations, ``(K,)``.
        log_weights: Logarithms of the weights, ``(m,)``.
        means: Means of the components, ``(m, K)``.
        roots: A root A of each precision matrix A A', ``(m, K, K)``.
    """

    location: Array
    scale: Array
    log_weights: Array
    means: Array
    roots: Array

    @classmethod
    def fit(cls, samples: Array, images_a_component: int, regularisation: float) -> Self:
        """Return the sum of at most five Gaussians fitted to samples, ``(n, K)``, by expectation-maximisation.

        Args:
            samples: K statistics of n images, ``(n, K)``.
            images_a_component: Images for each component; there are at most five components. A single component, for
                few images, has a Ledoit-Wolf covariance.
            regularisation: Added to the variances of the standardised statistics.
        """
        from sklearn.mixture import GaussianMixture  # noqa: PLC0415 - only fitting needs it, and it takes time to load

        location, scale = samples.mean(0), np.maximum(samples.std(0), MIN_SPREAD)
        u = (samples - location) / scale
        count = min(MAX_COMPONENTS, len(samples) // images_a_component)
        if count < 2:
            gaussian = Gaussian.fit(u)
            return cls(location, scale, np.zeros(1), gaussian.mean[None], gaussian.root[None])
        fit = GaussianMixture(count, reg_covar=regularisation, n_init=2, random_state=0).fit(u)
        return cls(location, scale, np.log(fit.weights_), fit.means_, fit.precisions_cholesky_)

    def surprisal(self, samples: Array) -> Array:
        """Return -ln of the density of each sample in nats, ``(N, K)`` -> ``(N,)``; the rarer the sample, the larger.

        The density is that of the standardised samples.
        """
        u = (samples - self.location) / self.scale
        whitened = np.einsum("nmk,mkj->nmj", u[:, None, :] - self.means, self.roots)
        log_det = np.linalg.slogdet(self.roots).logabsdet
        exponent = log_det - 0.5 * np.square(whitened).sum(2) - 0.5 * u.shape[1] * math.log(2 * math.pi)
        result: Array = -logsumexp(exponent + self.log_weights)
        return result
