"""Trivial anomaly scores, as baselines that a model must exceed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly.fitting.gaussian_fits import fit_gaussian
from snf_runtime.anomaly.density.gaussian import Gaussian
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
    """Baseline anomaly score that is large if a number computed from the image is unusually low or high.

    The number is, for example, the log-likelihood of the image.

    The score of a number x is |x - m| / s, with the mean m and the standard deviation s of normal images.
    """

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: Array) -> Self:
        """Return a two-sided score fitted to ``values``, which hold one number for each normal image.

        The fit takes the mean and the standard deviation of the values.

        The shape of ``values`` is ``(n,)``.
        """
        return cls(float(values.mean()), max(float(values.std()), MIN_SPREAD))

    def __call__(self, values: Array) -> Array:
        """Return |x - mean| / deviation of the number x of each image, ``(N,)``."""
        return np.abs(values - self.mean) / self.deviation


@dataclass(frozen=True)
class PrincipalComponents:
    """Baseline anomaly score: how far the pixels of an image are from a PCA model of normal images.

    The score is the Mahalanobis distance of the pixels from their mean (Tipping & Bishop 1999).

    d² = Σ (u_i' (x - μ))² / λ_i + ||r||² / σ², where r is the residual of x - μ beyond k principal components u_i.

    Attributes:
        block: The side of the squares over which pixels are averaged first.
        mean: μ, ``(D,)``.
        vectors: The components u_i, ``(k, D)``.
        variances: Their variances λ_i, ``(k,)``.
        noise: The mean variance σ² of the residual.
    """

    block: int
    mean: Array
    vectors: Array
    variances: Array
    noise: float

    @classmethod
    def fit(cls, images: Images) -> Self:
        """Fit the PCA-based anomaly score to the pixels of normal images, and return it.

        The images are uint8 ``(n, C, H, W)``. There are at most 64 principal components.
        """
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
        """Return the Mahalanobis distance of each image, ``(N, C, H, W)`` -> ``(N,)``."""
        centred = _blocks(images, self.block) - self.mean
        scores = centred @ self.vectors.T
        rest = np.maximum(np.square(centred).sum(1) - np.square(scores).sum(1), 0)
        distance: Array = np.sqrt((np.square(scores) / self.variances).sum(1) + rest / self.noise)
        return distance


@dataclass(frozen=True)
class Baselines:
    """Five simple baseline anomaly scores for comparison with a model, such as unusual PNG size or PCA distance.

    They are fitted to normal images that are not used for tests or thresholds.
    """

    likelihood: TwoSided
    png: TwoSided
    moments: Gaussian
    components: PrincipalComponents

    @classmethod
    def fit(cls, images: Images, log_likelihoods: Array) -> Self:
        """Fit all five baseline anomaly scores to normal images and their log-likelihoods under the model.

        The images are uint8 ``(n, C, H, W)``, and their log-likelihoods ``(n,)``.
        """
        return cls(
            TwoSided.fit(log_likelihoods),
            TwoSided.fit(png_sizes(images)),
            fit_gaussian(intensity_moments(images)),
            PrincipalComponents.fit(images),
        )

    def __call__(self, images: Images, log_likelihoods: Array) -> Array:
        """Return all baseline scores of each image, ``(N, len(NAMES))``; larger is more anomalous."""
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
    """Return the size in bytes of each image when it is encoded as PNG.

    The images are uint8 ``(N, C, H, W)``, the sizes float64 ``(N,)``.

    Sizes depend on the zlib library that Pillow uses.
    """
    return np.array([len(encode_png(image)) for image in images], dtype=np.float64)


def intensity_moments(images: Images) -> Array:
    """Return the mean, standard deviation, skewness and kurtosis of the pixels in each channel of each image.

    They are mean, standard deviation, skewness and excess kurtosis: ``(N, C, H, W)`` -> ``(N, 4 C)``.

    The means of all channels come first, then the deviations, and so on. Skewness and kurtosis of a channel with a
    single value are 0.
    """
    x = images.reshape(*images.shape[:2], -1).astype(np.float64)
    mean, deviation = x.mean(2), x.std(2)
    z = (x - mean[..., None]) / np.maximum(deviation, MIN_SPREAD)[..., None]
    flat = deviation < MIN_SPREAD
    skewness = np.where(flat, 0.0, (z**3).mean(2))
    kurtosis = np.where(flat, 0.0, (z**4).mean(2) - 3)
    return np.concatenate([mean, deviation, skewness, kurtosis], 1)


def _blocks(images: Images, block: int) -> Array:
    """Return the pixels of images, averaged over squares of ``block`` pixels and flattened, ``(N, D)``.

    An edge that fills no square is left out.
    """
    if block == 1:
        return images.reshape(len(images), -1).astype(np.float64)
    count, channels, height, width = images.shape
    rows, columns = height // block, width // block
    cut = images[:, :, : rows * block, : columns * block].reshape(count, channels, rows, block, columns, block)
    means: Array = cut.mean((3, 5), dtype=np.float64)
    return means.reshape(count, -1)
