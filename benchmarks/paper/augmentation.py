"""The paper's augmentation of CIFAR-10: horizontal flips and shifts of at most 4 % of the side, with repeated edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.training.batches import Batches

SHIFT_SHARE = 0.04
AUGMENTED = frozenset({"cifar10"})
"""Datasets whose rows the paper trained with augmentation."""


@dataclass(frozen=True)
class AugmentedBatches(Batches):
    """Training batches whose images are flipped and shifted, as a function of the seed and the step alone.

    Every pixel gets noise of its own afterwards: repeated edges with equal noise would have unbounded density.
    """

    def pixels(self, step: int) -> NDArray[np.uint8]:
        """Return the images of training step ``step`` without noise, uint8 ``(B, C, H, W)``."""
        images = super().pixels(step)
        random = np.random.default_rng((self.seed, step, 2))
        flipped = random.random(len(images)) < 0.5
        images[flipped] = images[flipped, :, :, ::-1]
        height, side = images.shape[2:]
        most = int(np.rint(SHIFT_SHARE * side))
        if not most:
            return images
        # A shift of s pixels, uniform in [-4 %, 4 %] of the side and rounded to whole pixels.
        shifts = most + np.rint(random.uniform(-SHIFT_SHARE * side, SHIFT_SHARE * side, (len(images), 2))).astype(int)
        padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
        return np.stack(
            [
                image[:, down : down + height, right : right + side]
                for image, (down, right) in zip(padded, shifts.tolist(), strict=True)
            ]
        )


def batches_of(batches: Batches, dataset: str) -> Batches:
    """Return the batches of a training, augmented where the paper did so for this dataset."""
    if dataset not in AUGMENTED:
        return batches
    return AugmentedBatches(batches.images, batches.batch_size, batches.seed)
