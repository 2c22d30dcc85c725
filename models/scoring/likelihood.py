"""The exact log-likelihood of 8-bit images: dequantise, transform, flow, sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dequantisation import content_stream
from models.flow import standard_normal_log_prob
from models.problems import ScoreNotFinite
from models.scoring.engines import Engine
from models.scoring.frozen import FrozenFlow

CHUNK = 64
"""Dequantised images held in float64 at once."""


@dataclass(frozen=True)
class Term:
    """What one scale adds to the log-likelihood, in nats. Scale 0 is the pixel transform."""

    scale: int
    log_prior: float
    log_det: float


@dataclass(frozen=True)
class Draws:
    """Spread over K dequantisation draws: mean and its standard error, and the importance-weighted bound, in nats."""

    k: int
    mean: float
    standard_error: float
    iw_bound: float


@dataclass(frozen=True)
class Likelihood:
    """The exact log-density of one image at its dequantised point, in nats over [0, 256)^D; never a probability."""

    log_likelihood: float
    bits_per_dim: float
    terms: tuple[Term, ...]
    draws: Draws | None = None
    kind: str = "density"


def log_likelihood_terms(engine: Engine, frozen: FrozenFlow, x: Tensor) -> Tensor:
    """Return log-prior and log-det of every scale for dequantised ``x``, float64 ``(N, C, H, W)`` in [0, 256).

    Shape ``(N, L + 1, 2)``, float64, nats; the sum of the last two axes is the log-likelihood.
    """
    y, pixel_log_det = frozen.pixels(x)
    latents = engine.forward(y)
    terms = torch.zeros(len(x), len(frozen.levels) + 1, 2, dtype=torch.float64)
    terms[:, 0, 1] = pixel_log_det
    scales = iter(latents.scales)
    for index, level in enumerate(frozen.levels, start=1):
        terms[:, index, 0] = latents.prior_log_det[:, index - 1]
        terms[:, index, 1] = latents.log_det[:, index - 1] + level.constant_log_det
        if level.latent_shape is not None:
            terms[:, index, 0] += standard_normal_log_prob(next(scales))
    return terms


def score_images(
    engine: Engine, frozen: FrozenFlow, weights_digest: str, images: NDArray[np.uint8], draws: int = 1
) -> list[Likelihood]:
    """Return what :func:`score_each` does, for images that all have a likelihood. Raises also ``ScoreNotFinite``."""
    return require_finite(score_each(engine, frozen, weights_digest, images, draws))


def score_each(
    engine: Engine, frozen: FrozenFlow, weights_digest: str, images: NDArray[np.uint8], draws: int = 1
) -> list[Likelihood | ScoreNotFinite]:
    """Return the likelihood of each image ``(N, C, H, W)``, averaged over ``draws`` draws keyed by its content.

    The noise belongs to the image and the weights (:func:`content_stream`), so a score depends on nothing else; an
    image whose arithmetic overflows has its error in its place. Raises ``ValueError`` for images of another shape or
    type, or fewer than one draw.
    """
    if images.dtype != np.uint8 or images.shape[1:] != frozen.image_shape:
        raise ValueError(f"expected uint8 images (N, {frozen.image_shape}), got {images.dtype} {images.shape}")
    if draws < 1:
        raise ValueError(f"expected at least one draw, got {draws}")
    points = _dequantised_points(images, weights_digest, draws)
    terms = [
        log_likelihood_terms(engine, frozen, torch.from_numpy(np.stack(chunk))) for chunk in _chunks(points, CHUNK)
    ]
    if not terms:
        return []
    by_image = torch.cat(terms).view(len(images), draws, -1, 2)
    return [_summarise(part, images[0].size) for part in by_image]


def require_finite(found: list[Likelihood | ScoreNotFinite]) -> list[Likelihood]:
    """Return the likelihoods of images that must all have one. Raises ``ScoreNotFinite``."""
    likelihoods = []
    for one in found:
        if isinstance(one, ScoreNotFinite):
            raise one
        likelihoods.append(one)
    return likelihoods


def _dequantised_points(images: NDArray[np.uint8], weights_digest: str, draws: int) -> Iterator[NDArray[np.float64]]:
    for image in images:
        stream = content_stream(image, weights_digest)
        for _ in range(draws):
            yield image + stream.random(image.shape)


def _chunks(points: Iterator[NDArray[np.float64]], size: int) -> Iterator[list[NDArray[np.float64]]]:
    while chunk := list(islice(points, size)):
        yield chunk


def _summarise(terms: Tensor, dimensions: int) -> Likelihood | ScoreNotFinite:
    values = terms.sum((1, 2))
    mean = terms.mean(0)
    log_likelihood = float(mean.sum())
    if not math.isfinite(log_likelihood):
        return ScoreNotFinite("the flow's arithmetic overflowed on this image")
    k = len(values)
    draws = None
    if k > 1:
        error = float(values.std() / math.sqrt(k))
        draws = Draws(k, log_likelihood, error, float(torch.logsumexp(values, 0) - math.log(k)))
    parts = tuple(Term(scale, float(prior), float(log_det)) for scale, (prior, log_det) in enumerate(mean.tolist()))
    return Likelihood(log_likelihood, bits_per_dim(log_likelihood, dimensions), parts, draws)


def bits_per_dim(log_likelihood: float, dimensions: int) -> float:
    """Return -log p / (D ln 2), log p in nats over [0, 256)^D.

    >>> round(bits_per_dim(-575.4, 28 * 28), 4)
    1.0588
    """
    return -log_likelihood / (dimensions * math.log(2))
