"""Validation of a flow while it trains: bits per dimension of held-out images, and a preview of samples."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.atomic_files import remove_leftovers, write_atomically
from models.bijections.base import Shape
from models.bijections.frozen import Inverse
from models.flows.flow import Flow, walk
from models.images.codec import encode_png, image_grid
from models.images.dequantisation import content_noise
from models.scoring.engines import TorchEngine
from models.scoring.frozen import freeze, layers_with_log_det
from models.scoring.likelihood import bits_per_dim
from models.scoring.sampling import sample_frozen, to_pixels

BATCH = 100
PREVIEW_SAMPLES = 16
FINAL_SAMPLES = 64
"""Number of samples that are stored with the finished model."""
PREVIEW_SEED = 0
"""Seed of the latents of all previews, and of the samples that are stored with a model: these begin with the same."""
PREVIEWS_KEPT = 50


def omitted_log_det(flow: Flow, shape: Shape) -> float:
    """Return the sum of log |det dz/dx|, in nats per image, of the layers for which training does not compute it.

    Cost: O(C³) per layer, so it is computed for reports only.
    """
    return sum(
        bijection.constant_log_det_at(at)
        for _, steps, _ in walk(flow, shape)
        for _, bijection, at in steps
        if bijection.omits_log_det
    )


def validation_bits_per_dim(flow: Flow, images: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Return a flow's mean bits per dimension of ``images``, uint8 ``(N, C, H, W)``, with equal noise in every call.

    The dequantisation noise of an image depends on the image alone, so that the result is the same in every call.
    """
    return trimmed_bits_per_dim(flow, images, 0.0)[0]


@torch.no_grad()
def trimmed_bits_per_dim(
    flow: Flow, images: np.ndarray[Any, np.dtype[np.uint8]], suspect_share: float
) -> tuple[float, float]:
    """Return mean bits per dimension of all validation images, and of all but the least likely ``suspect_share``.

    The second mean selects the weights to keep. Dirty images that a flow does not learn become ever less likely; with
    them, the mean would select the weights that have learned least.
    """
    log_likelihoods = []
    device = next(flow.parameters()).device
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        x = batch + np.concatenate([content_noise(image, "validation") for image in batch])
        y, log_det = flow.pixels(torch.from_numpy(x).to(device))
        log_likelihoods.append(flow.forward_pixels(y.float(), log_det.float()).log_likelihood.double())
    bits = bits_per_dim(sum(float(part.sum()) for part in log_likelihoods) / len(images), images[0].size)
    left_out = int(suspect_share * len(images))
    if not left_out:
        return bits, bits
    kept = torch.cat(log_likelihoods).sort().values[left_out:]
    return bits, bits_per_dim(float(kept.mean()), images[0].size)


def write_preview(flow: Flow, image_shape: Shape, folder: Path, step: int) -> Path:
    """Draw 16 samples from a flow in training, write them as one PNG to ``folder``, and return its path.

    The latents are the same at every step. The samples come from the learned inverse where the flow has one, are
    computed on the CPU, and change no random state. The 50 latest files stay.

    Raises:
        ValueError: A sample is not finite.
        Exception: Whatever an inverse of the flow raises.
    """
    flow = copy.deepcopy(flow).cpu()
    # Samples need no log-determinants, and computing them would be the most expensive part of freezing.
    frozen = freeze(flow, image_shape, dict.fromkeys(layers_with_log_det(flow, image_shape), 0.0))
    inverse: Inverse = "learned" if frozen.has_learned_inverse else "exact"
    images = sample_frozen(TorchEngine(frozen), frozen, PREVIEW_SAMPLES, seed=PREVIEW_SEED, inverse=inverse)
    if not np.isfinite(images).all():
        raise ValueError(f"the {inverse} inverse gave values that are not finite")
    path = folder / f"step-{step:08d}.png"
    write_atomically(path, encode_png(image_grid(to_pixels(images))))
    _delete_old_previews(path)
    return path


def _delete_old_previews(newest: Path) -> None:
    remove_leftovers(newest.parent)
    files = sorted(newest.parent.glob("step-*.png"))
    # Files of later steps are from another run, or this run went back to an earlier checkpoint and writes them anew.
    kept = [file for file in files if file <= newest][-PREVIEWS_KEPT:]
    for file in set(files) - set(kept):
        file.unlink()
