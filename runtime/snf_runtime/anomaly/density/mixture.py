"""Gaussian-mixture densities for image statistics that form clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from snf_runtime.numerics import logsumexp

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """A mixture of m Gaussians that is fitted to K statistics of normal images, standardised first."""

    location: Array
    scale: Array
    log_weights: Array
    means: Array
    roots: Array  # A of each precision matrix A A', (m, K, K)

    @cached_property
    def _log_dets(self) -> Array:
        log_dets: Array = np.linalg.slogdet(self.roots).logabsdet
        return log_dets

    def surprisal(self, samples: Array) -> Array:
        """Return the negative log-density of each standardised sample, in nats."""
        u = (samples - self.location) / self.scale
        whitened = np.einsum("nmk,mkj->nmj", u[:, None, :] - self.means, self.roots)
        exponent = self._log_dets - 0.5 * np.square(whitened).sum(2) - 0.5 * u.shape[1] * math.log(2 * math.pi)
        result: Array = -logsumexp(exponent + self.log_weights)
        return result
