"""Exact log-likelihoods of 8-bit images under a frozen flow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import ScoreNotFinite
from models.images.dequantisation import content_stream
from models.scoring.engines import Engine
from models.scoring.evidence import Evidence, gather
from models.scoring.flow_pass import FlowPass, run_flow
from models.scoring.frozen import FrozenFlow
from models.scoring.threads import torch_threads
from models.steps import STEP, Steps, finish

CHUNK, CHUNK_PIXELS = 64, 64 * 128 * 128
"""Largest number of dequantised images in memory at once, and of their pixels."""


@dataclass(frozen=True)
class LogLikelihoodTerm:
    """Contribution of one level of a flow, or of its pixel transform, to the log-likelihood of an image, in nats.

    Attributes:
        scale: 0 for the pixel transform, l for level l.
        log_prior: Log-density of the latents of the scale.
        log_det: Log-det of the bijections of the scale.
    """

    scale: int
    log_prior: float
    log_det: float


@dataclass(frozen=True)
class DrawStatistics:
    """Mean, standard error and bound of an image's log-likelihood over K draws of the noise that is added to pixels.

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
    """Exact log-likelihood of an image: the log-density, in nats, of its pixels plus uniform noise in [0, 1).

    Attributes:
        log_likelihood: The log-density in nats, averaged over the dequantisation draws.
        bits_per_dim: The same in bits per dimension, -log_likelihood / (D ln 2).
        terms: Contributions of the scales, which sum to ``log_likelihood``.
        draws: Statistics over the draws, if there are several.
        kind: "density": the number is a density, not a probability.
        evidence: Statistics of the first draw, one row, from which anomaly verdicts are computed.
    """

    log_likelihood: float
    bits_per_dim: float
    terms: tuple[LogLikelihoodTerm, ...]
    draws: DrawStatistics | None = None
    kind: str = "density"
    evidence: Evidence | None = field(default=None, compare=False, repr=False)


def score_images(
    engine: Engine, frozen: FrozenFlow, weights_digest: str, images: NDArray[np.uint8], draws: int = 1
) -> list[Likelihood]:
    """Return the log-likelihoods of uint8 images, ``(N, C, H, W)``. Raises ``ScoreNotFinite`` if one is not finite.

    Arguments are those of :func:`score_each`.
    """
    return require_finite(score_each(engine, frozen, weights_digest, images, draws))


def score_each(
    engine: Engine, frozen: FrozenFlow, weights_digest: str, images: NDArray[np.uint8], draws: int = 1
) -> list[Likelihood | ScoreNotFinite]:
    """Return the exact log-likelihood of each image, or a ``ScoreNotFinite`` object in its place if it is not finite.

    The dequantisation noise is a function of the image and the weights (:func:`content_stream`), so a score does not
    depend on the other images.

    Args:
        engine: The engine that runs the flow.
        frozen: The flow.
        weights_digest: SHA-256 of the weights, in hexadecimal.
        images: Pixels, uint8 ``(N, C, H, W)``.
        draws: The number of dequantisation draws.

    Returns:
        N results; an image whose log-likelihood is not finite has its error in its place.

    Raises:
        ValueError: The images have another shape or type, or ``draws`` is below 1.
    """
    return finish(score_steps(engine, frozen, weights_digest, images, draws, CHUNK))


def score_steps(
    engine: Engine,
    frozen: FrozenFlow,
    weights_digest: str,
    images: NDArray[np.uint8],
    draws: int = 1,
    at_once: int = STEP,
) -> Steps[list[Likelihood | ScoreNotFinite]]:
    """Compute log-likelihoods in a generator that yields every ``at_once`` images and finally returns all results.

    With several ``draws``, every draw counts as an image. Other arguments and results are those of :func:`score_each`.
    """
    if images.dtype != np.uint8 or images.shape[1:] != frozen.image_shape:
        raise ValueError(f"expected uint8 images (N, {frozen.image_shape}), got {images.dtype} {images.shape}")
    if draws < 1:
        raise ValueError(f"expected at least one draw, got {draws}")
    terms, evidence = [], []
    todo, done = passes(engine, frozen, weights_digest, images, draws, at_once), 0
    while done < len(images) * draws:
        if done:
            yield
        with torch_threads(1):
            start, flow_pass = next(todo)
            done = start + len(flow_pass)
            terms.append(flow_pass.terms())
            # Every ``draws``-th point is the first draw of an image.
            first = slice(-start % draws, None, draws)
            count = len(range(len(flow_pass))[first])
            if count:
                image = -(-start // draws)
                evidence.append(
                    gather(images[image : image + count], flow_pass if draws == 1 else flow_pass.rows(first))
                )
    if not terms:
        return []
    return _summarise(torch.cat(terms).view(len(images), draws, -1, 2), images[0].size, Evidence.join(evidence))


def passes(
    engine: Engine,
    frozen: FrozenFlow,
    weights_digest: str,
    images: NDArray[np.uint8],
    draws: int = 1,
    at_once: int = CHUNK,
) -> Iterator[tuple[int, FlowPass]]:
    """Run a flow on images in chunks of at most ``at_once``; yield (index of the first image, result) for each chunk.

    Memory does not grow with the number of images. Other arguments are those of :func:`score_each`.

    Yields:
        The number of the first dequantised image of a pass, and the pass. The draws of an image follow each other.
    """
    start = 0
    size = max(1, min(at_once, CHUNK_PIXELS // math.prod(frozen.image_shape[1:])))
    for chunk in _chunks(_dequantised_points(images, weights_digest, draws), size):
        yield start, run_flow(engine, frozen, torch.from_numpy(np.stack(chunk)))
        start += len(chunk)


def add_gradients(
    scored: list[Likelihood | ScoreNotFinite], features: NDArray[np.float64]
) -> list[Likelihood | ScoreNotFinite]:
    """Return scores with gradient statistics added, one row of ``features``, ``(N, G)``, for each image.

    Images without a finite log-likelihood keep their errors.
    """

    def add(score: Likelihood | ScoreNotFinite, row: NDArray[np.float64]) -> Likelihood | ScoreNotFinite:
        if isinstance(score, ScoreNotFinite) or score.evidence is None:
            return score
        return replace(score, evidence=replace(score.evidence, gradients=row[None]))

    return [add(score, row) for score, row in zip(scored, features, strict=True)]


def require_finite(scored: list[Likelihood | ScoreNotFinite]) -> list[Likelihood]:
    """Return the log-likelihoods if all are finite; otherwise raise the first ``ScoreNotFinite`` in the list."""
    likelihoods = []
    for score in scored:
        if isinstance(score, ScoreNotFinite):
            raise score
        likelihoods.append(score)
    return likelihoods


def _dequantised_points(images: NDArray[np.uint8], weights_digest: str, draws: int) -> Iterator[NDArray[np.float64]]:
    for image in images:
        stream = content_stream(image, weights_digest)
        for _ in range(draws):
            yield image + stream.random(image.shape)


def dequantise(images: NDArray[np.uint8], weights_digest: str) -> NDArray[np.float64]:
    """Return pixels plus uniform noise in [0, 1), the same in every call for the same image and weights.

    Args:
        images: Pixels, uint8 ``(N, C, H, W)``.
        weights_digest: SHA-256 of the weights, in hexadecimal.

    Returns:
        Dequantised images, float64 ``(N, C, H, W)`` in [0, 256).
    """
    return np.stack(list(_dequantised_points(images, weights_digest, 1)))


def _chunks(points: Iterator[NDArray[np.float64]], size: int) -> Iterator[list[NDArray[np.float64]]]:
    while chunk := list(islice(points, size)):
        yield chunk


def _summarise(terms: Tensor, dimensions: int, evidence: Evidence) -> list[Likelihood | ScoreNotFinite]:
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
        bits, row = bits_per_dim(log_likelihood, dimensions), evidence[index : index + 1]
        scored.append(Likelihood(log_likelihood, bits, parts, draws, evidence=row))
    return scored


def _draws(values: Tensor, means: list[float]) -> list[DrawStatistics]:
    """Return statistics over dequantisation draws from the log-likelihoods ``(images, draws)`` and their means."""
    k = values.shape[1]
    columns = values.std(1) / math.sqrt(k), torch.logsumexp(values, 1) - math.log(k)
    rows = zip(means, *(column.tolist() for column in columns), strict=True)
    return [DrawStatistics(k, *row) for row in rows]


def bits_per_dim(log_likelihood: float, dimensions: int) -> float:
    """Convert a log-likelihood in nats to bits per dimension, -log p / (D ln 2), for images of D values.

    >>> round(bits_per_dim(-575.4, 28 * 28), 4)
    1.0588
    """
    return -log_likelihood / (dimensions * math.log(2))
