"""Training batches. Their order and noise follow from seed and step, so that a resumed run needs no random state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_client.schemas.training import Augmentation
from snf_runtime.images.batch import Batch, stacked

SHIFT_SHARE = 0.04  # largest shift as a share of a side (Keller et al. 2021, published settings)


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


@dataclass(frozen=True)
class Batches:
    """Shuffled batches. Noise follows the augmentation: edges repeated with equal noise have unbounded density."""

    images: Batch  # uint8 ``(M, C, H, W)``
    batch_size: int
    seed: int
    augmentation: Augmentation = "none"

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.images) // self.batch_size)

    def batch(self, step: int) -> Tensor:
        """Return pixels plus uniform [0, 1) noise, float64 ``(B, C, H, W)``."""
        pixels = self.pixels(step)
        return torch.from_numpy(pixels + np.random.default_rng((self.seed, step, 1)).random(pixels.shape))

    def pixels(self, step: int) -> NDArray[np.uint8]:
        """Return the augmented images of a step, uint8 ``(B, C, H, W)``."""
        epoch, index = divmod(step, self.steps_per_epoch)
        chosen = _permutation(len(self.images), self.seed, epoch)[
            index * self.batch_size : (index + 1) * self.batch_size
        ]
        images = stacked(self.images)[np.sort(chosen)]
        return augmented(images, self.augmentation, np.random.default_rng((self.seed, step, 2)))


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng((seed, epoch)).permutation(count)
