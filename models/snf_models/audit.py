"""Audit of scores: recomputation in float64 by the trained flow, with all determinants."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.errors import ScoreNotFinite
from snf_models.features.backbones import DEFAULT_FOLDER, BackboneStore
from snf_models.features.extractor import TorchExtractor
from snf_models.features.flows import FeatureFlows, HybridFlows
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.flows.flow import Flow
from snf_models.scorer import Scorer
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import layers_with_log_det
from snf_models.scoring.open_density import FEATURES, PIXELS, open_extractor
from snf_models.threads import thread_count, torch_threads
from snf_runtime.scoring.pixel_density import dequantise

SEED = 0  # seed of the samples that are audited in addition to the stored images


@dataclass(frozen=True)
class Audited:
    """Two scores of an image in nats."""

    source: Literal["pinned", "sample"]
    log_likelihood: float  # by the engine with the stored log-dets
    recomputed: float  # by the trained flows in float64
    log_dets: dict[str, float]  # data-independent, recomputed, by layer
    log_det_total: float  # sum of those that the score contains
    seconds: float  # for both scores


def count_images(scorer: Scorer, asked: int) -> int:
    """Return how many images can be audited: without a flow over pixels only the stored ones."""
    return asked if scorer.has_pixels else min(asked, len(scorer.pinned))


def audit(scorer: Scorer, index: int) -> Audited:
    """Audit an image, stored ones first, then seeded samples; raise ``ScoreNotFinite``, ``SamplesUnsupported``."""
    began = time.perf_counter()
    stored = len(scorer.pinned)
    source: Literal["pinned", "sample"] = "pinned" if index < stored else "sample"
    image = (
        scorer.pinned[index : index + 1] if source == "pinned" else scorer.sample(1, seed=SEED, first=index - stored)
    )
    score = scorer.score(image)[0].log_likelihood
    with torch_threads(thread_count(scorer.options.threads)):
        recomputed, log_dets = _recompute(scorer, image)
    contained = sum(value for name, value in log_dets.items() if _in_score(scorer, name))
    return Audited(source, score, recomputed, log_dets, contained, time.perf_counter() - began)


def _recompute(scorer: Scorer, image: NDArray[np.uint8]) -> tuple[float, dict[str, float]]:
    """Return an image's log-likelihood, of a hybrid model that of its pixels, and the log-dets of all layers."""
    flows, digest = scorer.trained.flows, scorer.log_det_digest
    if isinstance(flows, FeatureFlows):
        architecture = scorer.manifest.architecture
        assert isinstance(architecture, FeatureArchitecture)
        return recompute_features(flows, architecture, scorer.options, image)
    if isinstance(flows, HybridFlows):
        log_likelihood, pixels = recompute(flows.pixels, digest, image)
        features = _double(flows.features).log_dets()
        log_dets = {PIXELS + name: value for name, value in pixels.items()}
        return log_likelihood, log_dets | {FEATURES + name: value for name, value in features.items()}
    return recompute(flows, digest, image)


def _in_score(scorer: Scorer, layer: str) -> bool:
    """Return whether a score contains the log-det of a layer: those of other fits, and of hybrid features, do not."""
    if isinstance(scorer.trained.flows, FeatureFlows):
        return layer in scorer.trained.flows.scored()
    return not isinstance(scorer.trained.flows, HybridFlows) or layer.startswith(PIXELS)


def recompute(flow: Flow, weights_digest: str, image: NDArray[np.uint8]) -> tuple[float, dict[str, float]]:
    """Return the log-likelihood and log-dets of uint8 ``(1, C, H, W)`` in nats; the digest keys the noise."""
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
    return _finite(log_likelihood), log_dets


@torch.no_grad()
def recompute_features(
    flows: FeatureFlows, architecture: FeatureArchitecture, options: EngineOptions, image: NDArray[np.uint8]
) -> tuple[float, dict[str, float]]:
    """Return the log-likelihood and log-dets of features, in float64 but for an ONNX backbone."""
    store = BackboneStore(options.backbones or DEFAULT_FOLDER)
    backbone = store.by_digest(architecture.backbone, architecture.backbone_sha256)
    if backbone.format == "onnx":
        extract = open_extractor(store, backbone, architecture.image_shape, architecture.input_size, options)
        features = torch.from_numpy(extract(image)[0]).double()
    else:
        extractor = TorchExtractor(backbone, store.arrays(backbone), architecture.input_size, torch.float64)
        features, _ = extractor.features(image)
    live = _double(flows)
    z = live.latents(features)
    log_dets = live.log_dets()
    log_prior = -0.5 * z.square().sum() - 0.5 * z.numel() * math.log(2 * math.pi)
    return _finite(log_prior + sum(log_dets[name] for name in live.scored())), log_dets


def _double(flows: FeatureFlows) -> FeatureFlows:
    return copy.deepcopy(flows).double().eval()


def _finite(log_likelihood: Tensor) -> float:
    if not torch.isfinite(log_likelihood).all():
        raise ScoreNotFinite("the flow's arithmetic overflowed on this image in float64")
    return float(log_likelihood)
