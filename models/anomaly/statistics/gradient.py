"""Densities of gradient statistics, for verdicts that use a backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.anomaly.density.conditioning import Conditioning
from models.anomaly.density.mixture import Mixture
from models.anomaly.density.tails import Tail

Array = NDArray[np.float64]

MIN_SPREAD = 1e-9


@dataclass(frozen=True)
class GradientFamily:
    """The density of the gradient statistics of normal images, given the complexity of the image.

    ``used`` holds the columns of the statistics that vary at all.

    ``used`` holds the places of the statistics that vary at all.
    """

    used: NDArray[np.int64]
    conditioning: Conditioning
    density: Mixture
    tail: Tail

    @classmethod
    def fit(cls, features: Array, complexity: Array) -> Self:
        """Fit the density to gradient statistics, ``(n, K)``, and complexities, ``(n,)``, of reference images."""
        used = np.flatnonzero(features.std(0) > MIN_SPREAD).astype(np.int64)
        conditioning = Conditioning.fit(features[:, used], complexity)
        z = conditioning(features[:, used], complexity)
        density = Mixture.fit(z, images_a_component=1000, regularisation=1e-2)
        return cls(used, conditioning, density, Tail.fit(density.surprisal(z)))

    def surprise(self, features: Array, complexity: Array) -> Array:
        """Return the negative log p-value of each image by its gradient statistics, ``(N,)`` in nats."""
        return self.tail.surprise(self.density.surprisal(self.conditioning(features[:, self.used], complexity)))
