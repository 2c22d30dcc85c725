"""Audit of scores: the log-likelihood recomputed by the trained flow in float64, with all determinants."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ScoreNotFinite
from models.flows.flow import Flow
from models.scorer import Scorer
from models.scoring.frozen import layers_with_log_det
from models.scoring.likelihood import dequantise

SEED = 0
"""Seed of the samples that are audited in addition to the stored images."""


@dataclass(frozen=True)
class Audited:
    """The result of a check: an image's log-likelihood by the fast engine, and recomputed in float64, in nats.

    Attributes:
        source: Whether the image is stored with the model or a sample of it.
        log_likelihood: Score by the engine with the stored log-dets, in nats.
        recomputed: Score by the trained flow in float64, in nats.
        log_dets: Recomputed data-independent log-dets by layer name, in nats.
        seconds: Time for both scores.
    """

    source: Literal["pinned", "sample"]
    log_likelihood: float
    recomputed: float
    log_dets: dict[str, float]
    seconds: float


def audit(scorer: Scorer, index: int) -> Audited:
    """Compute an image's log-likelihood by the fast engine and again, with all determinants, in float64; return both.

    Args:
        scorer: The scorer.
        index: The number of the image: stored images first, then seeded samples.

    Raises:
        ScoreNotFinite: The log-likelihood of the image is not finite.
    """
    began = time.perf_counter()
    stored = len(scorer.pinned)
    source: Literal["pinned", "sample"] = "pinned" if index < stored else "sample"
    image = (
        scorer.pinned[index : index + 1] if source == "pinned" else scorer.sample(1, seed=SEED, first=index - stored)
    )
    score = scorer.score(image)[0].log_likelihood
    recomputed, log_dets = recompute(scorer.flow, scorer.log_det_digest, image)
    return Audited(source, score, recomputed, log_dets, time.perf_counter() - began)


def recompute(flow: Flow, weights_digest: str, image: NDArray[np.uint8]) -> tuple[float, dict[str, float]]:
    """Return an image's log-likelihood in nats by the trained flow in float64; determinants are computed anew.

    Args:
        flow: The trained flow.
        weights_digest: SHA-256 of the weights, in hexadecimal.
        image: Pixels, uint8 ``(1, C, H, W)``.

    Returns:
        The log-likelihood, and the data-independent log-dets by layer name, in nats.

    Raises:
        ScoreNotFinite: The log-likelihood is not finite.
    """
    live = copy.deepcopy(flow).double().eval()
    log_dets: dict[str, float] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_layer: object, _inputs: object, output: Any) -> None:
            log_dets[name] = float(output[1])

        return hook

    stored = layers_with_log_det(flow, image.shape[1:])
    for name, layer in live.named_modules():
        if name in stored:
            layer.register_forward_hook(keep(name))
    with torch.no_grad():
        log_likelihood = live(torch.from_numpy(dequantise(image, weights_digest))).log_likelihood
    if not torch.isfinite(log_likelihood).all():
        raise ScoreNotFinite("the flow's arithmetic overflowed on this image in float64")
    return float(log_likelihood), log_dets
