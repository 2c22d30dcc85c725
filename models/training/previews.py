"""Samples to look at while a flow trains: the same latents at every validation."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from models.atomic_files import remove_leftovers, write_atomically
from models.bijections.base import Shape
from models.bijections.frozen import Inverse
from models.flows.flow import Flow
from models.images.codec import encode_png, image_grid
from models.scoring.engines import TorchEngine
from models.scoring.frozen import freeze, layers_with_log_det
from models.scoring.sampling import sample_frozen, to_pixels

COUNT = 16
FINAL_COUNT = 64
"""Samples that are stored with the finished model."""
SEED = 0
"""Also that of the samples that are stored with a model: previews show how their first ones came to be."""
KEPT = 50


def write_preview(flow: Flow, image_shape: Shape, folder: Path, step: int) -> Path:
    """Write 16 samples of ``flow`` to ``folder/step-NNNNNNNN.png`` and keep the last 50 such files; return the path.

    By the learned inverse where the flow has one, on the CPU, with noise of its own: no random state moves. Raises
    ``ValueError`` where a sample is not finite, and whatever an inverse raises.
    """
    flow = copy.deepcopy(flow).cpu()
    # A sample needs no log-det, and determinants are what is dear in freezing.
    frozen = freeze(flow, image_shape, dict.fromkeys(layers_with_log_det(flow, image_shape), 0.0))
    inverse: Inverse = "learned" if frozen.has_learned_inverse else "exact"
    images = sample_frozen(TorchEngine(frozen), frozen, COUNT, seed=SEED, inverse=inverse)
    if not np.isfinite(images).all():
        raise ValueError(f"the {inverse} inverse gave values that are not finite")
    path = folder / f"step-{step:08d}.png"
    write_atomically(path, encode_png(image_grid(to_pixels(images))))
    _drop_others(path)
    return path


def _drop_others(newest: Path) -> None:
    remove_leftovers(newest.parent)
    files = sorted(newest.parent.glob("step-*.png"))
    # Later steps were left by another run, or by one that went back to an earlier checkpoint and will see them again.
    kept = [file for file in files if file <= newest][-KEPT:]
    for file in set(files) - set(kept):
        file.unlink()
