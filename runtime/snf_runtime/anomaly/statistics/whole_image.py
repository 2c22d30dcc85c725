"""Gaussian mixtures of whole-image statistics, and the combination of their p-values into one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.gaussian import Gaussian
from snf_runtime.anomaly.density.mixture import Mixture
from snf_runtime.anomaly.density.tails import Tail

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DensityView:
    """Gaussian mixture over some statistics of an image (one view of the image), fitted to normal images.

    The statistics are those of the whole image in ``columns``. The mixture gives new images their -ln p.
    """

    columns: NDArray[np.int64]
    density: Mixture
    tail: Tail

    def surprise(self, statistics: Array) -> Array:
        """Return each image's negative log p-value, from its density under the fitted Gaussian mixture.

        p is the probability that a normal image has a density at most as large. The shapes are ``(N, K)`` -> ``(N,)``,
        in nats.
        """
        return self.tail.surprise(self.surprisal(statistics))

    def surprisal(self, statistics: Array) -> Array:
        """Return each image's negative log-density under the Gaussian mixture, for the statistics in ``columns``.

        The shapes are ``(N, K)`` -> ``(N,)``, in nats.
        """
        return self.density.surprisal(statistics[:, self.columns])


@dataclass(frozen=True)
class WholeFamily:
    """Densities over several sets of whole-image statistics; together they tell how unusual an image is.

    The densities are fitted to normal images.

    Their p-values are combined by Fisher's method with weights.

    Their values of -ln p are added, each times its share (Good 1955).

    The first density is that of the statistics that tell clusters of images apart: complexity, the term of the pixel
    transform and the volumes of all scales. The second adds the unevenness of regions, the third has all statistics
    but those of channels. The fourth has those of channels, correlations of neighbours and complexity. All are
    mixtures, so that the usual values depend on complexity.

    Attributes:
        used: Columns of the statistics that carry information besides complexity, ``(k,)``.
        location: Mean complexity, ``(1,)``.
        scale: Standard deviation of complexity, ``(1,)``.
        conditioning: The standardisation of the used statistics, for explanations.
        gaussian: The density of the standardised statistics, which gives each its share in an explanation.
        views: The densities: three, or four where the flow has statistics of channels.
        joint: The survival function of the sum of their surprises.
        shares: The factor of each surprise in the sum, ``(4,)``; None without statistics of channels, where all are 1.
    """

    used: NDArray[np.int64]
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    views: tuple[DensityView, ...]
    joint: Tail
    shares: Array | None = None

    def __post_init__(self) -> None:
        shape = None if self.shares is None else self.shares.shape
        if (len(self.views), shape) not in ((3, None), (4, (4,))):
            raise ValueError(
                f"expected 3 densities of the whole image, or 4 with 4 shares, got {len(self.views)}, shares {shape}"
            )

    def standardised(self, statistics: Array) -> Array:
        """Return the whole-image statistics of each image as z-scores relative to normal images.

        There are k statistics relative to images of like complexity, then complexity itself, ``(N, k + 1)``.

        The k statistics are those that carry information besides complexity.
        """
        return z_scores(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return each image's whole-image statistics as whitened z-scores, which are uncorrelated coordinates.

        Their squares add up to the squared Mahalanobis distance. The shape is ``(N, k + 1)``.
        """
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return the negative log p-value of each image's whole-image statistics, compared to normal images.

        Fisher's method with weights combines the p-values of all densities. The p-value of their sum comes from its
        distribution over normal images. The shapes are ``(N, K)`` -> ``(N,)``, in nats.
        """
        surprises = np.stack([view.surprise(statistics) for view in self.views], 1)
        return self.joint.surprise(total_surprise(surprises, self.shares))

    def surprisals(self, statistics: Array) -> Array:
        """Return each image's negative log-densities under all densities of whole-image statistics in this family.

        The shapes are ``(N, K)`` -> ``(N, views)``, in nats.
        """
        return np.stack([view.surprisal(statistics) for view in self.views], 1)


def total_surprise(surprises: Array, shares: Array | None) -> Array:
    """Return the weighted sum of each image's negative log p-values under several densities of its statistics.

    The weights are ``shares``; None stands for 1 each. The shapes are ``(N, views)`` -> ``(N,)``, in nats.
    """
    total: Array = np.sum(surprises if shares is None else surprises * shares, axis=1)
    return total


def z_scores(
    statistics: Array, used: NDArray[np.int64], location: Array, scale: Array, conditioning: Conditioning
) -> Array:
    """Return image statistics as z-scores, relative to images with a similar amount of detail.

    The amount of detail is called complexity: the entropy of errors when pixels are predicted from neighbours.

    Only the columns ``used`` are taken. The last column of the result is the z-score of complexity itself.

    The shapes are ``(N, K)`` -> ``(N, k + 1)``.
    """
    given = conditioning(statistics[:, used], statistics[:, 0])
    return np.concatenate([given, (statistics[:, :1] - location) / scale], axis=1)
