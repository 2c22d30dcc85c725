"""Validation of a flow while it trains: bits per dimension of held-out images, and a preview of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from models.atomic_files import remove_leftovers, write_atomically
from models.bijections.frozen import Inverse
from models.errors import EngineUnavailable
from models.scoring.engines.torch_engine import TorchEngine
from models.scoring.frozen import FrozenFlow
from models.scoring.sampling import sample_frozen, to_pixels
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.images.dequantisation import content_noise
from snf_runtime.scoring.flow_pass import run_flow
from snf_runtime.scoring.likelihood import bits_per_dim

Images: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

BATCH = 100
TILE_PIXELS = BATCH * 32 * 32
"""Most pixels of the images that are computed at once. A served score has small tiles, so that it is the same in every
batch; a validation needs no equality to the last bit, and large tiles take a fraction of the time."""
PREVIEW_SAMPLES = 16
FINAL_SAMPLES = 64
"""Number of samples that are stored with the finished model."""
PREVIEW_SEED = 0
"""Seed of the latents of all previews, and of the samples that are stored with a model: these begin with the same."""
PREVIEWS_KEPT = 50


def validation_tile(image_shape: tuple[int, int, int]) -> int:
    """Return how many images of a given shape a validation computes together (its engine's tile size).

    It is 100 images of up to 1024 pixels each, and fewer if they are larger.

    >>> validation_tile((1, 28, 28)), validation_tile((3, 256, 256))
    (100, 1)
    """
    return max(1, min(BATCH, TILE_PIXELS // (image_shape[1] * image_shape[2])))


def validation_bits_per_dim(frozen: FrozenFlow, images: Images, device: str = "cpu") -> float:
    """Return the mean bits per dimension of validation images under a flow.

    The images are uint8 ``(N, C, H, W)``.

    The dequantisation noise of an image depends on the image alone, so that the result is the same in every call.
    """
    return trimmed_bits_per_dim(frozen, images, 0.0, device)[0]


def trimmed_bits_per_dim(
    frozen: FrozenFlow, images: Images, suspect_share: float, device: str = "cpu"
) -> tuple[float, float]:
    """Return two means of the bits per dimension of validation images: with and without outliers.

    Outliers are the least likely ``suspect_share`` of the images.

    The second mean selects the weights to keep. Dirty images that a flow does not learn become ever less likely; with
    them, the mean would select the weights that have learned least. No determinant is computed: those of the frozen
    flow are known.

    Args:
        frozen: The flow.
        images: Validation images, uint8 ``(N, C, H, W)``.
        suspect_share: Share of the images that the second mean leaves out, 0 to 1.
        device: Where to compute; the CPU where a layer cannot be computed there.
    """
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
    """Draw 16 sample images from a flow in training, and write them to ``folder`` as one PNG file.

    Returns the path of the file.

    The latents are the same at every step. The samples come from the learned inverse where the flow has one, are
    computed on the CPU, and change no random state. The 50 latest files stay.

    Raises:
        ValueError: A sample is not finite.
        Exception: Whatever an inverse of the flow raises.
    """
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
