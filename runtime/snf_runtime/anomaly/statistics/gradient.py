"""Densities of gradient statistics, for verdicts that use a backward pass."""

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
    """A density of the gradient statistics of normal images at equal complexity, which gives new images -ln p.

    ``used`` holds the columns of the statistics that vary at all.
    """

    used: NDArray[np.int64]
    conditioning: Conditioning
    density: Mixture
    tail: Tail

    def surprise(self, features: Array, complexity: Array) -> Array:
        """Return -ln p of each image in nats, ``(N,)``: p is the chance of gradients as unusual in a normal image."""
        return self.tail.surprise(self.surprisal(features, complexity))

    def surprisal(self, features: Array, complexity: Array) -> Array:
        """Return -ln of the density of each image's gradient statistics in nats, ``(N,)``."""
        return self.density.surprisal(self.conditioning(features[:, self.used], complexity))
