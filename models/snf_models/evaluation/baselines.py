"""Trivial anomaly scores, as baselines that a model must exceed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_models.anomaly.statistic_densities import fit_gaussian
from snf_runtime.anomaly.statistics import Gaussian
from snf_runtime.images.codec import encode_png

Array: TypeAlias = NDArray[np.float64]
Images: TypeAlias = NDArray[np.uint8]

COMPONENTS = 64
MAX_PIXEL_VALUES = 4096
"""Most values of an image for principal components; a larger image is averaged over squares first."""
MIN_SPREAD = 1e-9

NAMES = (
    "log-likelihood-low",
    "log-likelihood-two-sided",
    "png-size",
    "intensity-moments",
    "pca-mahalanobis",
)
LABELS = {
    "log-likelihood-low": "raw log-likelihood, low = strange",
    "log-likelihood-two-sided": "raw log-likelihood, two-sided |z|",
    "png-size": "PNG size in bytes, two-sided |z| (depends on the zlib build)",
    "intensity-moments": "moments of the intensities, Mahalanobis",
    "pca-mahalanobis": "principal components of the pixels, Mahalanobis with residual",
}


@dataclass(frozen=True)
class TwoSided:
    """Score |x - m| / s for the mean and deviation of a number over normal images."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: Array) -> Self:
        return cls(float(values.mean()), max(float(values.std()), MIN_SPREAD))

    def __call__(self, values: Array) -> Array:
        """Return the scores, ``(N,)``."""
        return np.abs(values - self.mean) / self.deviation


@dataclass(frozen=True)
class PrincipalComponents:
    """Mahalanobis distance of pixels: Σ (u_i' (x - μ))² / λ_i + ||r||² / σ² (Tipping & Bishop 1999)."""

    block: int  # side of the squares over which pixels are averaged first
    mean: Array  # μ, ``(D,)``
    vectors: Array  # u_i, ``(k, D)``
    variances: Array  # λ_i, ``(k,)``
    noise: float  # σ², mean variance of the residual r

    @classmethod
    def fit(cls, images: Images) -> Self:
        """Fit at most 64 components to uint8 ``(n, C, H, W)``."""
        from sklearn.decomposition import PCA  # noqa: PLC0415 - only fitting needs it, and it takes time to load

        block = 1
        while images[0].size / block**2 > MAX_PIXEL_VALUES:
            block += 1
        pixels = _blocks(images, block)
        count = max(1, min(COMPONENTS, len(images) // 4, pixels.shape[1] // 2))
        fit = PCA(count, svd_solver="randomized", random_state=0).fit(pixels)
        smallest = max(1e-6 * float(fit.explained_variance_[0]), MIN_SPREAD)
        variances = np.maximum(fit.explained_variance_, smallest)
        return cls(block, fit.mean_, fit.components_, variances, max(float(fit.noise_variance_), smallest))

    def __call__(self, images: Images) -> Array:
        """Return the distance of each image, ``(N, C, H, W)`` -> ``(N,)``."""
        centred = _blocks(images, self.block) - self.mean
        scores = centred @ self.vectors.T
        rest = np.maximum(np.square(centred).sum(1) - np.square(scores).sum(1), 0)
        distance: Array = np.sqrt((np.square(scores) / self.variances).sum(1) + rest / self.noise)
        return distance


@dataclass(frozen=True)
class Baselines:
    """Five baselines, fitted to normal images that are not used for tests or thresholds."""

    likelihood: TwoSided
    png: TwoSided
    moments: Gaussian
    components: PrincipalComponents

    @classmethod
    def fit(cls, images: Images, log_likelihoods: Array) -> Self:
        return cls(
            TwoSided.fit(log_likelihoods),
            TwoSided.fit(png_sizes(images)),
            fit_gaussian(intensity_moments(images)),
            PrincipalComponents.fit(images),
        )

    def __call__(self, images: Images, log_likelihoods: Array) -> Array:
        """Return the scores, ``(N, len(NAMES))``; larger is more anomalous."""
        moments = np.square(self.moments.components(intensity_moments(images))).sum(1)
        columns = [
            -log_likelihoods,
            self.likelihood(log_likelihoods),
            self.png(png_sizes(images)),
            np.sqrt(moments),
            self.components(images),
        ]
        return np.stack(columns, 1)


def png_sizes(images: Images) -> Array:
    """Return the bytes of each image as PNG, ``(N,)``; they depend on Pillow's zlib."""
    return np.array([len(encode_png(image)) for image in images], dtype=np.float64)


def intensity_moments(images: Images) -> Array:
    """Return mean, deviation, skewness and excess kurtosis of each channel, ``(N, 4 C)``, all means first."""
    x = images.reshape(*images.shape[:2], -1).astype(np.float64)
    mean, deviation = x.mean(2), x.std(2)
    z = (x - mean[..., None]) / np.maximum(deviation, MIN_SPREAD)[..., None]
    flat = deviation < MIN_SPREAD
    skewness = np.where(flat, 0.0, (z**3).mean(2))
    kurtosis = np.where(flat, 0.0, (z**4).mean(2) - 3)
    return np.concatenate([mean, deviation, skewness, kurtosis], 1)


def _blocks(images: Images, block: int) -> Array:
    """Return pixels averaged over squares, ``(N, D)``, without edges that fill no square."""
    if block == 1:
        return images.reshape(len(images), -1).astype(np.float64)
    count, channels, height, width = images.shape
    rows, columns = height // block, width // block
    cut = images[:, :, : rows * block, : columns * block].reshape(count, channels, rows, block, columns, block)
    means: Array = cut.mean((3, 5), dtype=np.float64)
    return means.reshape(count, -1)
