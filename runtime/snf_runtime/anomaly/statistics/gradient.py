"""Densities of log-likelihood gradient statistics, for anomaly verdicts that use a backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.mixture import Mixture
from snf_runtime.anomaly.density.tails import Tail

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GradientFamily:
    """Group of statistics of log-likelihood gradients, with their density over normal images.

    Statistics are compared at equal image complexity. The density gives new images their -ln p.

    ``used`` holds the columns of the statistics that vary at all.
    """

    used: NDArray[np.int64]
    conditioning: Conditioning
    density: Mixture
    tail: Tail

    def surprise(self, features: Array, complexity: Array) -> Array:
        """Return the negative log p-value of each image's gradients, compared to those of normal images.

        The gradients are those of the image's log-likelihood.

        p is the probability that a normal image has gradients at least as unusual. The shape is ``(N,)``, in nats.
        """
        return self.tail.surprise(self.surprisal(features, complexity))

    def surprisal(self, features: Array, complexity: Array) -> Array:
        """Return the negative log-density of the gradient statistics of each image.

        The shape is ``(N,)``, in nats.
        """
        return self.density.surprisal(self.conditioning(features[:, self.used], complexity))
