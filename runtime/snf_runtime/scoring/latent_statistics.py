"""Statistics of whole images from their pass through a flow; none is an exact linear combination of others."""

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
    """Return the mean log2 standard deviation of a level's prior, from its log-det in nats and d latents."""
    return -sums(prior_log_det) / (dimensions * math.log(2))


def volume(log_det: Array, dimensions: int) -> Array:
    """Return -Λ / (D ln 2) in bits/dim: by how much a level of D values with log-det Λ contracts volume."""
    return -sums(log_det) / (dimensions * math.log(2))


def radius(latent: Array) -> Array:
    """Return log(||e||² / d) of d latents, about N(0, 2/d) for images from an exact flow."""
    result: Array = np.log(_mean(np.square(latent)) + TINY)
    return result


def correlation(latent: Array, first: Array, second: Array) -> Array:
    """Return the sum of products of neighbours ``first`` and ``second`` over Σ e²."""
    return sums(first * second) / (sums(np.square(latent)) + TINY)


def horizontal(latent: Array) -> Array:
    """Return Σ e(j) e(j+1) / Σ e² of d latents, about N(0, (W - 1) / (W d)) for images from an exact flow."""
    return correlation(latent, latent[..., 1:], latent[..., :-1])


def vertical(latent: Array) -> Array:
    """Return Σ e(i) e(i+1) / Σ e² of d latents, about N(0, (H - 1) / (H d)) for images from an exact flow."""
    return horizontal(latent.swapaxes(2, 3))


def kurtosis(latent: Array) -> Array:
    """Return mean e⁴ / (mean e²)² - 3 of d latents, about N(0, 24/d) for images from an exact flow."""
    square = np.square(latent)
    return _mean(np.square(square)) / (np.square(_mean(square)) + TINY) - 3


def reconstruction(errors: Array) -> Array:
    """Return the mean log of ||R W x - x||² / ||x||² over layers: a learned R ≈ W⁻¹ fits training images best."""
    result: Array = np.log(errors + TINY).mean(1)
    return result


def _mean(values: Array) -> Array:
    result: Array = sums(values) / values[0].size
    return result


def statistic_names(frozen: FlowLayout) -> tuple[str, ...]:
    """Return names such as ``radius-2`` (level 2), in the order of :func:`whole_image_statistics`."""
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
    """Return the statistics of :func:`statistic_names`, float64 ``(N, K)``."""
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
