"""What a flow is worth while it trains: bits/dim of held-out images, and the log-dets that training leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from models.bijections.base import Shape
from models.dequantisation import content_noise
from models.flow import Flow, walk
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


@torch.no_grad()
def validation_bits_per_dim(flow: Flow, images: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Return the mean bits/dim of ``images`` under ``flow`` in evaluation mode, with noise keyed by the image."""
    total = 0.0
    device = next(flow.parameters()).device
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        x = batch + np.concatenate([content_noise(image, "validation") for image in batch])
        y, log_det = flow.pixels(torch.from_numpy(x).to(device))
        total += float(flow.forward_pixels(y.float(), log_det.float()).log_likelihood.double().sum())
    return bits_per_dim(total / len(images), images[0].size)
