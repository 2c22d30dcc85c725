"""Augmentation of training images: horizontal flips, and shifts of at most 4 % of the side with repeated edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.training.config import Augmentation

SHIFT_SHARE = 0.04
"""Largest shift as a share of a side (Keller et al. 2021, published settings)."""


def augmented(images: NDArray[np.uint8], augmentation: Augmentation, random: np.random.Generator) -> NDArray[np.uint8]:
    """Augment a batch of images by random flips and shifts.

    ``augmentation`` says which of the two are done. A flip swaps left and right, with probability 1/2.

    A shift is uniform in [-4 %, 4 %] of the side and rounded to whole pixels: it is a crop of the image with its edges
    repeated outwards.

    Args:
        images: Images, ``(N, C, H, W)``; may be overwritten.
        augmentation: What is done.
        random: Source of flips and shifts. The same state gives the same images.
    """
    if augmentation in ("flip", "crop-flip"):
        flipped = random.random(len(images)) < 0.5
        images[flipped] = images[flipped, :, :, ::-1]
    if augmentation not in ("crop", "crop-flip"):
        return images
    height, width = images.shape[2:]
    # Rounded alike, so that no shift is larger than the padding.
    reach = SHIFT_SHARE * np.array([height, width])
    most = np.rint(reach).astype(int)
    shifts = most + np.rint(random.uniform(-reach, reach, (len(images), 2))).astype(int)
    padded = np.pad(images, ((0, 0), (0, 0), *((pixels, pixels) for pixels in most.tolist())), mode="edge")
    return np.stack(
        [
            image[:, down : down + height, right : right + width]
            for image, (down, right) in zip(padded, shifts.tolist(), strict=True)
        ]
    )
