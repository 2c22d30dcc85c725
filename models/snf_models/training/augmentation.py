"""Augmentation of training images: horizontal flips, and shifts of at most 4 % of the side with repeated edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snf_models.training.config import Augmentation

SHIFT_SHARE = 0.04
"""Largest shift as a share of a side (Keller et al. 2021, published settings)."""


def augmented(images: NDArray[np.uint8], augmentation: Augmentation, random: np.random.Generator) -> NDArray[np.uint8]:
    """Flip and shift images ``(N, C, H, W)``, which may be overwritten; shifts repeat the edges outwards."""
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
