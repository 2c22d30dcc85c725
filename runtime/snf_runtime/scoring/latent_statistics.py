"""Statistics of whole images from their pass through a flow.

No statistic is an exact linear combination of others. Docstrings give the distribution of a statistic for images from
an exact flow; in practice images are compared with the statistics of a reference set.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from snf_runtime.scoring.complexity import residual_entropy
from snf_runtime.scoring.flow_pass import FlowPass, sums
from snf_runtime.scoring.layout import FlowLayout

Array = NDArray[np.float64]

COMPLEXITY = "complexity"
PIXEL_TERM = "pixel-term"

TINY = 1e-300
"""Added to arguments of logarithms and to denominators, which may underflow to 0."""


def spread(prior_log_det: Array, dimensions: int) -> Array:
    """Return the spread that a flow's prior predicts for one level's latents, as a mean value for each image.

    It is the mean log2 standard deviation of the level's Gaussian prior, which differs from image to image.

    Args:
        prior_log_det: Log-det of the prior at each location, ``(N, H, W)`` in nats.
        dimensions: The number d of latents.

    Returns:
        The statistic, ``(N,)``.
    """
    return -sums(prior_log_det) / (dimensions * math.log(2))


def volume(log_det: Array, dimensions: int) -> Array:
    """Return, for each image, by how much one level of the flow contracts volume, in bits/dim.

    It is -Λ / (D ln 2) for the D values of the level, where Λ is its log |det dz/dx| without the constant part.

    Together with :func:`radius` and :func:`spread` it gives the contribution of the level to bits/dim.

    Args:
        log_det: Log-det of the level at each location, ``(N, H, W)`` in nats.
        dimensions: The number D of values of the level.

    Returns:
        The statistic, ``(N,)``.
    """
    return -sums(log_det) / (dimensions * math.log(2))


def radius(latent: Array) -> Array:
    """Return the log mean square of each image's latents, a measure of their distance from the origin.

    It is log(||e||² / d) for d latents e, ``(N, C, H, W) -> (N,)``.

    For images from an exact flow it is about N(0, 2/d).
    """
    result: Array = np.log(_mean(np.square(latent)) + TINY)
    return result


def correlation(latent: Array, first: Array, second: Array) -> Array:
    """Return each image's correlation between neighbouring latents, given as arrays ``first`` and ``second``.

    It is the sum of their products over Σ e² for latents e, ``(N, C, H, W) -> (N,)``.
    """
    return sums(first * second) / (sums(np.square(latent)) + TINY)


def horizontal(latent: Array) -> Array:
    """Return the correlation between each latent value and its right neighbour, for each image.

    It is Σ e(j) e(j+1) / Σ e² for latents e, ``(N, C, H, W) -> (N,)``.

    For images from an exact flow it is about N(0, (W - 1) / (W d)) for d latents.
    """
    return correlation(latent, latent[..., 1:], latent[..., :-1])


def vertical(latent: Array) -> Array:
    """Return the correlation between vertically neighbouring latents of each image.

    It is Σ e(i) e(i+1) / Σ e² for latents e, ``(N, C, H, W) -> (N,)``.

    For images from an exact flow it is about N(0, (H - 1) / (H d)) for d latents.
    """
    return horizontal(latent.swapaxes(2, 3))


def kurtosis(latent: Array) -> Array:
    """Return the excess kurtosis of the latents of each image.

    It is mean e⁴ / (mean e²)² - 3 for latents e, ``(N, C, H, W) -> (N,)``.

    For images from an exact flow it is about N(0, 24/d) for d latents.
    """
    square = np.square(latent)
    return _mean(np.square(square)) / (np.square(_mean(square)) + TINY) - 3


def reconstruction(errors: Array) -> Array:
    """Return each image's mean log reconstruction error over the layers of a level with learned inverses.

    Each error is ||R W x - x||² / ||x||² of a layer with a learned inverse R ≈ W⁻¹. The result is ``(N,)``.

    The learned inverse R is fitted to activations of training images, and its errors are larger on others. If R is
    exact up to the precision of the weights, the statistic is rounding noise.
    """
    result: Array = np.log(errors + TINY).mean(1)
    return result


def _mean(values: Array) -> Array:
    result: Array = sums(values) / values[0].size
    return result


def statistic_names(frozen: FlowLayout) -> tuple[str, ...]:
    """Return the names of a flow's image statistics, such as ``radius-2`` for the norm of level 2's latents.

    They are in the order of the columns of :func:`whole_image_statistics`.
    """
    names = [COMPLEXITY, PIXEL_TERM]
    for number, level in enumerate(frozen.levels, start=1):
        kinds = ["volume"]
        if level.has_prior:
            kinds.append("spread")
        if level.latent_shape is not None:
            _, height, width = level.latent_shape
            kinds += ["radius", "kurtosis"]
            kinds += ["horizontal"] if width > 1 else []
            kinds += ["vertical"] if height > 1 else []
        kinds += ["reconstruction"] if level.reconstruction_sizes else []
        names += [f"{kind}-{number}" for kind in kinds]
    return tuple(names)


def whole_image_statistics(images: NDArray[np.uint8], flow_pass: FlowPass) -> NDArray[np.float64]:
    """Return statistics of each whole image for anomaly verdicts, such as complexity and the norms of latents.

    The complexity is the entropy of the errors of predicting pixels from their neighbours.

    Args:
        images: Pixels, uint8 ``(N, C, H, W)``.
        flow_pass: Their pass through the flow.

    Returns:
        The K statistics named by :func:`statistic_names`, float64 ``(N, K)``.
    """
    size = images[0].size
    columns = [
        residual_entropy(images),
        -sums(flow_pass.pixel_log_slopes) / (size * math.log(2)),
    ]
    latents, scales = flow_pass.latents, iter(flow_pass.latents.scales)
    for index, level in enumerate(flow_pass.frozen.levels):
        latent = next(scales) if level.latent_shape is not None else None
        left = 0 if latent is None else latent[0].size
        locations = latents.log_dets[index][0].size
        columns.append(volume(latents.log_dets[index], left + level.kept * locations))
        if level.has_prior:
            columns.append(spread(latents.prior_log_dets[index], left))
        if latent is not None:
            columns += [radius(latent), kurtosis(latent)]
            columns += [horizontal(latent)] if latent.shape[3] > 1 else []
            columns += [vertical(latent)] if latent.shape[2] > 1 else []
        if level.reconstruction_sizes:
            columns.append(reconstruction(latents.reconstruction_errors[index]))
    return np.stack(columns, 1)
