"""The paper's augmentation of CIFAR-10: horizontal flips and shifts of at most 4 % of the side, with repeated edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.batches import Batches

SHIFT_SHARE = 0.04
AUGMENTED = frozenset({"cifar10"})
"""Datasets whose rows the paper trained with augmentation."""


@dataclass(frozen=True)
class AugmentedBatches(Batches):
    """Training batches whose images are flipped and shifted, as a function of the seed and the step alone."""

    def batch(self, step: int) -> Tensor:
        """Return the batch of training step ``step``, float64 ``(B, C, H, W)``."""
        images = super().batch(step)
        random = np.random.default_rng((self.seed, step, 2))
        flipped = torch.from_numpy(random.random(len(images)) < 0.5)
        images[flipped] = images[flipped].flip(3)
        side = images.shape[3]
        most = int(np.rint(SHIFT_SHARE * side))
        if not most:
            return images
        # A shift of s pixels, uniform in [-4 %, 4 %] of the side and rounded to whole pixels.
        shifts = np.rint(random.uniform(-SHIFT_SHARE * side, SHIFT_SHARE * side, (len(images), 2))).astype(int)
        padded = F.pad(images, (most, most, most, most), mode="replicate")
        return torch.stack(
            [
                image[:, most + down : most + down + images.shape[2], most + right : most + right + side]
                for image, (down, right) in zip(padded, shifts.tolist(), strict=True)
            ]
        )


def batches_of(batches: Batches, dataset: str) -> Batches:
    """Return the batches of a training, augmented where the paper did so for this dataset."""
    if dataset not in AUGMENTED:
        return batches
    return AugmentedBatches(batches.images, batches.batch_size, batches.seed)
