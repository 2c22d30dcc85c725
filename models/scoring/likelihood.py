"""The exact log-likelihood of 8-bit images: dequantise, transform, flow, sum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
"""Dequantised images held in float64 at once, and their pixels."""


@dataclass(frozen=True)
class LogLikelihoodTerm:
    """What one scale adds to the log-likelihood, in nats. Scale 0 is the pixel transform."""

    scale: int
    log_prior: float
    log_det: float


@dataclass(frozen=True)
class DrawStatistics:
    """Spread over K dequantisation draws: mean and its standard error, and the importance-weighted bound, in nats."""

    k: int
    mean: float
    standard_error: float
    iw_bound: float


@dataclass(frozen=True)
class Likelihood:
    """The exact log-density of one image at its dequantised point, in nats over [0, 256)^D; never a probability.

    ``evidence``: what the pass of the first draw says of the image besides, one row; a verdict is made of it, and so
    does not depend on the number of draws.
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
    return finish(score_steps(engine, frozen, weights_digest, images, draws, CHUNK))


def score_steps(
    engine: Engine,
    frozen: FrozenFlow,
    weights_digest: str,
    images: NDArray[np.uint8],
    draws: int = 1,
    at_once: int = STEP,
) -> Steps[list[Likelihood | ScoreNotFinite]]:
    """Return what :func:`score_each` does, in steps of ``at_once`` draws. Raises what it does."""
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
            start, found = next(todo)
            done = start + len(found)
            terms.append(found.terms())
            # The first draw of an image comes every so many points.
            first = slice(-start % draws, None, draws)
            count = len(range(len(found))[first])
            if count:
                image = -(-start // draws)
                evidence.append(gather(images[image : image + count], found if draws == 1 else found.rows(first)))
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
    """Yield the passes of all draws of all images, image after image, each with the number of its first point.

    A pass has at most ``at_once`` points. Memory does not grow with the number of images.
    """
    start = 0
    size = max(1, min(at_once, CHUNK_PIXELS // math.prod(frozen.image_shape[1:])))
    for chunk in _chunks(_dequantised_points(images, weights_digest, draws), size):
        yield start, run_flow(engine, frozen, torch.from_numpy(np.stack(chunk)))
        start += len(chunk)


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


def dequantise(images: NDArray[np.uint8], weights_digest: str) -> NDArray[np.float64]:
    """Return the points that images, ``(N, C, H, W)``, are scored at: pixels plus their first draw, in [0, 256)."""
    return np.stack(list(_dequantised_points(images, weights_digest, 1)))


def _chunks(points: Iterator[NDArray[np.float64]], size: int) -> Iterator[list[NDArray[np.float64]]]:
    while chunk := list(islice(points, size)):
        yield chunk


def _summarise(terms: Tensor, dimensions: int, evidence: Evidence) -> list[Likelihood | ScoreNotFinite]:
    """Return what is told of each image, from its terms, ``(images, draws, scales, 2)``, and its evidence."""
    k = terms.shape[1]
    means = terms.mean(1)
    totals: list[float] = means.sum((1, 2)).tolist()
    spread: Sequence[DrawStatistics | None] = [None] * len(terms) if k == 1 else _draws(terms.sum((2, 3)), totals)
    found: list[Likelihood | ScoreNotFinite] = []
    for index, (log_likelihood, by_scale, draws) in enumerate(zip(totals, means.tolist(), spread, strict=True)):
        if not math.isfinite(log_likelihood):
            found.append(ScoreNotFinite("the flow's arithmetic overflowed on this image"))
            continue
        parts = tuple(
            LogLikelihoodTerm(scale, log_prior, log_det) for scale, (log_prior, log_det) in enumerate(by_scale)
        )
        bits, row = bits_per_dim(log_likelihood, dimensions), evidence[index : index + 1]
        found.append(Likelihood(log_likelihood, bits, parts, draws, evidence=row))
    return found


def _draws(values: Tensor, means: list[float]) -> list[DrawStatistics]:
    """Return the spread of each image's draws from their log-likelihoods, ``(images, draws)``, and their means."""
    k = values.shape[1]
    columns = values.std(1) / math.sqrt(k), torch.logsumexp(values, 1) - math.log(k)
    rows = zip(means, *(column.tolist() for column in columns), strict=True)
    return [DrawStatistics(k, *row) for row in rows]


def bits_per_dim(log_likelihood: float, dimensions: int) -> float:
    """Return -log p / (D ln 2), log p in nats over [0, 256)^D.

    >>> round(bits_per_dim(-575.4, 28 * 28), 4)
    1.0588
    """
    return -log_likelihood / (dimensions * math.log(2))
