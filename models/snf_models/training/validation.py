"""Validation of a flow while it trains: bits per dimension of held-out images, and a preview of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from snf_models.bijections.frozen import Inverse
from snf_models.disk import remove_leftovers, write_atomically
from snf_models.errors import EngineUnavailable
from snf_models.scoring.engines.torch_engine import TorchEngine
from snf_models.scoring.frozen import FrozenFlow
from snf_models.scoring.sampling import sample_frozen, to_pixels
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.images.dequantisation import content_noise
from snf_runtime.scoring.flow_pass import run_flow
from snf_runtime.scoring.likelihood import bits_per_dim

Images: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

BATCH = 100
TILE_PIXELS = BATCH * 32 * 32
"""Most pixels computed at once: more than in scoring, where a result must be the same in every batch."""
PREVIEW_SAMPLES = 16
FINAL_SAMPLES = 64
"""Number of samples that are stored with the finished model."""
PREVIEW_SEED = 0
"""Seed of the latents of all previews, and of the samples that are stored with a model: these begin with the same."""
PREVIEWS_KEPT = 50


def validation_tile(image_shape: tuple[int, int, int]) -> int:
    """Return how many images a validation computes together.

    >>> validation_tile((1, 28, 28)), validation_tile((3, 256, 256))
    (100, 1)
    """
    return max(1, min(BATCH, TILE_PIXELS // (image_shape[1] * image_shape[2])))


def validation_bits_per_dim(frozen: FrozenFlow, images: Images, device: str = "cpu") -> float:
    """Return the mean over images uint8 ``(N, C, H, W)``, the same in every call: noise depends on the image alone."""
    return trimmed_bits_per_dim(frozen, images, 0.0, device)[0]


def trimmed_bits_per_dim(
    frozen: FrozenFlow, images: Images, suspect_share: float, device: str = "cpu"
) -> tuple[float, float]:
    """Return the means with and without suspects. The second selects weights, as suspects get ever less likely."""
    tile = validation_tile(frozen.image_shape)
    try:
        engine = TorchEngine(frozen, tile, device=device)
    except EngineUnavailable:
        engine = TorchEngine(frozen, tile)
    log_likelihoods = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        x = batch + np.concatenate([content_noise(image, "validation") for image in batch])
        log_likelihoods.append(run_flow(engine, frozen, x).terms().sum((1, 2)))
    bits = bits_per_dim(sum(float(part.sum()) for part in log_likelihoods) / len(images), images[0].size)
    left_out = int(suspect_share * len(images))
    if not left_out:
        return bits, bits
    kept = np.sort(np.concatenate(log_likelihoods))[left_out:]
    return bits, bits_per_dim(float(kept.mean()), images[0].size)


def write_preview(frozen: FrozenFlow, folder: Path, step: int) -> Path:
    """Write a PNG of 16 samples, with the same latents at every step. Raises whatever an inverse raises."""
    inverse: Inverse = "learned" if frozen.has_learned_inverse else "exact"
    engine = TorchEngine(frozen, min(PREVIEW_SAMPLES, validation_tile(frozen.image_shape)))
    images = sample_frozen(engine, frozen, PREVIEW_SAMPLES, seed=PREVIEW_SEED, inverse=inverse)
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
