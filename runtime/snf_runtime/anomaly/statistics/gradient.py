"""Densities of gradient statistics, for verdicts that use a backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.mixture import Mixture
from snf_runtime.anomaly.density.tails import Tail

Array = NDArray[np.float64]

MIN_SPREAD = 1e-9


@dataclass(frozen=True)
class GradientFamily:
    """A density of the gradient statistics of normal images at equal complexity, which gives new images -ln p.

    ``used`` holds the columns of the statistics that vary at all.
    """

    used: NDArray[np.int64]
    conditioning: Conditioning
    density: Mixture
    tail: Tail

    @classmethod
    def fit(cls, features: Array, complexity: Array) -> Self:
        """Return the density fitted to gradient statistics, ``(n, K)``, of normal images of complexity ``(n,)``."""
        used = np.flatnonzero(features.std(0) > MIN_SPREAD).astype(np.int64)
        conditioning = Conditioning.fit(features[:, used], complexity)
        z = conditioning(features[:, used], complexity)
        density = Mixture.fit(z, images_a_component=1000, regularisation=1e-2)
        return cls(used, conditioning, density, Tail.fit(density.surprisal(z)))

    def surprise(self, features: Array, complexity: Array) -> Array:
        """Return -ln p of each image in nats, ``(N,)``: p is the chance of gradients as unusual in a normal image."""
        return self.tail.surprise(self.density.surprisal(self.conditioning(features[:, self.used], complexity)))
