"""An audit: scores again, by the flow as it was trained, in float64, with nothing that was cached or frozen."""

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
"""Of the samples that stand in where more images are asked for than are stored."""


@dataclass(frozen=True)
class Audited:
    """One image scored twice, nats: by the engine with the cached log-dets, and again without them.

    ``log_dets``: every data-independent log-det of that second pass by its layer's name, nats. ``seconds``: both took.
    """

    source: Literal["pinned", "sample"]
    log_likelihood: float
    recomputed: float
    log_dets: dict[str, float]
    seconds: float


def audit(scorer: Scorer, index: int) -> Audited:
    """Return the audit of an image of ``scorer``: the stored ones come first, and then seeded samples.

    Raises ``ScoreNotFinite``.
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
    """Return the log-likelihood of one image, ``(1, C, H, W)``, and the data-independent log-dets, all in nats.

    Every bijection of the flow computes in float64 and says its own log-det, determinants included. Raises
    ``ScoreNotFinite``.
    """
    live = copy.deepcopy(flow).double().eval()
    found: dict[str, float] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_layer: object, _inputs: object, output: Any) -> None:
            found[name] = float(output[1])

        return hook

    stored = layers_with_log_det(flow, image.shape[1:])
    for name, layer in live.named_modules():
        if name in stored:
            layer.register_forward_hook(keep(name))
    with torch.no_grad():
        log_likelihood = live(torch.from_numpy(dequantise(image, weights_digest))).log_likelihood
    if not torch.isfinite(log_likelihood).all():
        raise ScoreNotFinite("the flow's arithmetic overflowed on this image in float64")
    return float(log_likelihood), found
