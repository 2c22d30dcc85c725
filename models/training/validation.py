"""What a flow is worth while it trains: bits/dim of held-out images, and the log-dets that training leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from models.bijections.base import Shape
from models.flows.flow import Flow, walk
from models.images.dequantisation import content_noise
from models.scoring.likelihood import bits_per_dim

BATCH = 100


def omitted_log_det(flow: Flow, shape: Shape) -> float:
    """Return the log-dets, in nats, that self normalizing layers leave out in training; O(C³) a layer, so seldom."""
    return sum(
        bijection.constant_log_det_at(at)
        for _, steps, _ in walk(flow, shape)
        for _, bijection, at in steps
        if bijection.omits_log_det
    )


def validation_bits_per_dim(flow: Flow, images: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Return the mean bits/dim of ``images`` under ``flow`` in evaluation mode, with noise keyed by the image."""
    return trimmed_bits_per_dim(flow, images, 0.0)[0]


@torch.no_grad()
def trimmed_bits_per_dim(
    flow: Flow, images: np.ndarray[Any, np.dtype[np.uint8]], suspect_share: float
) -> tuple[float, float]:
    """Return the mean bits/dim of ``images``, and of those left without the least likely ``suspect_share``.

    Dirty images that a flow does not learn get ever less likely; their mean would choose the weights that learned
    least.
    """
    found = []
    device = next(flow.parameters()).device
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        x = batch + np.concatenate([content_noise(image, "validation") for image in batch])
        y, log_det = flow.pixels(torch.from_numpy(x).to(device))
        found.append(flow.forward_pixels(y.float(), log_det.float()).log_likelihood.double())
    bits = bits_per_dim(sum(float(part.sum()) for part in found) / len(images), images[0].size)
    left_out = int(suspect_share * len(images))
    if not left_out:
        return bits, bits
    kept = torch.cat(found).sort().values[left_out:]
    return bits, bits_per_dim(float(kept.mean()), images[0].size)
