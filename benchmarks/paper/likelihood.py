"""Exact negative log-likelihoods of a trained flow: by the exported form, and by the flow itself in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from snf_models.flows.flow import Flow
from snf_models.scoring.frozen import FrozenFlow, freeze
from snf_models.scoring.torch_engine import TorchEngine
from snf_runtime.scoring.evidence import run_flow

CHUNK = 100


@dataclass(frozen=True)
class TestResult:
    """Negative log-likelihoods of test images, of one dequantisation draw each.

    Attributes:
        nats: Of each image in float64, ``(N,)``.
        exported_difference: Largest difference of the exported model from it, in nats.
    """

    __test__ = False  # no test, whatever its name says

    nats: NDArray[np.float64]
    exported_difference: float


def export(flow: Flow, image_shape: tuple[int, int, int]) -> FrozenFlow:
    """Return the form of a flow that is stored and served: its layers, and log-dets computed once in float64."""
    return freeze(copy.deepcopy(flow).cpu().eval(), image_shape)


def exported_nats(frozen: FrozenFlow, images: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float64]:
    """Return the negative log-likelihood of each image, uint8 ``(N, C, H, W)``, by an exported model."""
    engine = TorchEngine(frozen, CHUNK, device=device)
    return np.concatenate([-run_flow(engine, frozen, x).terms().sum((1, 2)) for x in _noisy_chunks(np.asarray(images))])


@torch.no_grad()
def float64_nats(flow: Flow, images: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float64]:
    """Return the negative log-likelihood of each image by the flow itself, with every layer in float64."""
    reference = copy.deepcopy(flow).to(device).double().eval()
    parts = [
        -reference(torch.from_numpy(x).to(device)).log_likelihood.cpu().numpy()
        for x in _noisy_chunks(np.asarray(images))
    ]
    return np.concatenate(parts)


def evaluate(flow: Flow, images: NDArray[np.uint8], device: str = "cpu") -> TestResult:
    """Return the likelihoods of test images in float64, compared with those of the exported model."""
    shape: tuple[int, int, int] = (images.shape[1], images.shape[2], images.shape[3])
    nats = float64_nats(flow, images, device)
    difference = np.abs(exported_nats(export(flow, shape), images, device) - nats)
    return TestResult(nats, float(difference.max()))


def _noisy_chunks(images: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Return images plus uniform noise in chunks. The noise is equal in every call, so that rows are compared in pairs.

    Chunk i has the noise of seed i.
    """
    return [
        images[start : start + CHUNK] + np.random.default_rng((start, 2021)).random(images[start : start + CHUNK].shape)
        for start in range(0, len(images), CHUNK)
    ]
