"""Exact log-likelihoods of 8-bit images under a frozen flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.errors import ImageError, ScoreNotFinite
from snf_runtime.images.batch import Batch, check_batch
from snf_runtime.parallelism import Steps, finish
from snf_runtime.scoring.density import CHUNKS_WITHOUT_PAUSES, DensityPass, ImageDensity
from snf_runtime.scoring.evidence import Evidence, logsumexp
from snf_runtime.scoring.layout import DensityKind

Array = NDArray[np.float64]
Observer: TypeAlias = Callable[[DensityPass, Evidence], None]
"""A function that is called with the result of a group of images, of one draw of each, and with their statistics."""


@dataclass(frozen=True)
class LogLikelihoodTerm:
    """Contribution of one scale to a log-likelihood, in nats."""

    scale: int  # 0 for the pixel transform, l for level l
    log_prior: float
    log_det: float


@dataclass(frozen=True)
class DrawStatistics:
    """Statistics of an image's log-likelihood over several random draws of the dequantisation noise.

    The noise is added to the pixels. The statistics are the mean, its standard error and a bound.

    Attributes:
        k: The number of draws K.
        mean: Mean of the log-likelihoods.
        standard_error: Standard error of the mean.
        iw_bound: Importance-weighted bound log(1/K Σ_k p_k) of the log-probability of the 8-bit image.
    """

    k: int
    mean: float
    standard_error: float
    iw_bound: float


@dataclass(frozen=True)
class Likelihood:
    """Exact log-likelihood of an image, with the statistics from which anomaly verdicts are computed.

    It is the log-density, in nats, of its pixels plus uniform noise in [0, 1), or of its features.

    Attributes:
        log_likelihood: The log-density in nats, averaged over the dequantisation draws.
        bits_per_dim: The same in bits per dimension, -log_likelihood / (D ln 2); None for a density of features.
        terms: Contributions of the scales, which sum to ``log_likelihood``.
        draws: Statistics over the draws, if there are several.
        kind: "density" of the pixels, or "feature_density" of the features; neither is a probability.
        evidence: Evidence of the first draw, one row; verdicts are computed from it.
    """

    log_likelihood: float
    bits_per_dim: float | None
    terms: tuple[LogLikelihoodTerm, ...]
    draws: DrawStatistics | None = None
    kind: DensityKind = "density"
    evidence: Evidence = field(compare=False, repr=False, kw_only=True)


def score_images(density: ImageDensity, images: Batch, draws: int = 1) -> list[Likelihood]:
    """Return all log-likelihoods, or raise ``ScoreNotFinite``; arguments are those of :func:`score_each`."""
    return require_finite(score_each(density, images, draws))


def score_each(
    density: ImageDensity, images: Batch, draws: int = 1, observe: Observer | None = None
) -> list[Likelihood | ScoreNotFinite]:
    """Return each image's likelihood, or the error of one that is not finite; ``observe`` gets every group."""
    return finish(score_steps(density, images, draws, CHUNKS_WITHOUT_PAUSES * density.chunk_size, observe))


def score_steps(
    density: ImageDensity, images: Batch, draws: int = 1, chunk_size: int | None = None, observe: Observer | None = None
) -> Steps[list[Likelihood | ScoreNotFinite]]:
    """Do the work of :func:`score_each` in a generator that yields between groups of ``chunk_size``."""
    check_batch(images, density.image_shape, tiled=density.tiled)
    if draws < 1:
        raise ValueError(f"expected at least one draw, got {draws}")
    terms, evidence = [], []
    todo, done, began = density.passes(images, draws, chunk_size), 0, False
    while done < len(images) * draws:
        if began:
            yield
        began = True
        start, density_pass = next(todo)
        if density_pass is None:
            continue
        done = start + len(density_pass)
        terms.append(density_pass.terms())
        # Every ``draws``-th point is the first draw of an image.
        first = slice(-start % draws, None, draws)
        count = len(range(len(density_pass))[first])
        if count:
            image = -(-start // draws)
            first_draws = density_pass if draws == 1 else density_pass.rows(first)
            evidence.append(density.evidence(images[image : image + count], first_draws))
            if observe is not None:
                observe(first_draws, evidence[-1])
    if not terms:
        return []
    return _summarise(np.concatenate(terms).reshape(len(images), draws, -1, 2), density, Evidence.join(evidence))


def require_finite(scored: Sequence[Likelihood | ImageError]) -> list[Likelihood]:
    """Return the likelihoods, or raise the first error."""
    likelihoods = []
    for score in scored:
        if isinstance(score, ImageError):
            raise score
        likelihoods.append(score)
    return likelihoods


def _summarise(terms: Array, density: ImageDensity, evidence: Evidence) -> list[Likelihood | ScoreNotFinite]:
    """Return each image's log-likelihood from the terms of its scales, ``(images, draws, scales, 2)``."""
    k = terms.shape[1]
    means = terms.mean(1)
    totals: list[float] = means.sum((1, 2)).tolist()
    spread: Sequence[DrawStatistics | None] = [None] * len(terms) if k == 1 else _draws(terms.sum((2, 3)), totals)
    scored: list[Likelihood | ScoreNotFinite] = []
    for index, (log_likelihood, by_scale, draws) in enumerate(zip(totals, means.tolist(), spread, strict=True)):
        if not math.isfinite(log_likelihood):
            scored.append(ScoreNotFinite("the flow's arithmetic overflowed on this image"))
            continue
        parts = tuple(
            LogLikelihoodTerm(scale, log_prior, log_det) for scale, (log_prior, log_det) in enumerate(by_scale)
        )
        bits = bits_per_dim(log_likelihood, density.dimensions) if density.kind == "density" else None
        scored.append(
            Likelihood(log_likelihood, bits, parts, draws, density.kind, evidence=evidence[index : index + 1])
        )
    return scored


def _draws(values: Array, means: list[float]) -> list[DrawStatistics]:
    """Return statistics over dequantisation draws from the log-likelihoods ``(images, draws)`` and their means."""
    k = values.shape[1]
    columns = values.std(1, ddof=1) / math.sqrt(k), logsumexp(values) - math.log(k)
    rows = zip(means, *(column.tolist() for column in columns), strict=True)
    return [DrawStatistics(k, *row) for row in rows]


def bits_per_dim(log_likelihood: float, dimensions: int) -> float:
    """Convert a log-likelihood in nats to bits per dimension, -log p / (D ln 2), for images of D values.

    >>> round(bits_per_dim(-575.4, 28 * 28), 4)
    1.0588
    """
    return -log_likelihood / (dimensions * math.log(2))
