"""Training batches: shuffled, dequantised images.

Order and noise are functions of the seed and the step alone, so that a resumed run needs no saved random state.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.datasets import Images
from models.devices import send
from models.prefetch import prefetch
from models.training.augmentation import augmented
from models.training.config import Augmentation
from snf_runtime.images.batch import stacked


@dataclass(frozen=True)
class Batches:
    """Shuffled training batches of images with uniform [0, 1) noise added.

    The batch of a step follows from the attributes and the number of the step alone, so that a resumed training gets
    the same batches.

    Each pixel gets noise of its own after the augmentation: repeated edges with equal noise would have unbounded
    density.

    Attributes:
        images: All training images, uint8 ``(M, C, H, W)``.
        batch_size: Images per batch, M at most.
        seed: Seed of order, augmentation and noise.
        augmentation: What is done to the images, anew in each step.
    """

    images: Images
    batch_size: int
    seed: int
    augmentation: Augmentation = "none"

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in one pass over the training images, at least 1.

        Images left over are not used.
        """
        return max(1, len(self.images) // self.batch_size)

    def batch(self, step: int) -> Tensor:
        """Return the batch of training step ``step``: pixels plus uniform [0, 1) noise, float64 ``(B, C, H, W)``."""
        pixels = self.pixels(step)
        return torch.from_numpy(pixels + np.random.default_rng((self.seed, step, 1)).random(pixels.shape))

    def pixels(self, step: int) -> NDArray[np.uint8]:
        """Return the augmented images of one training step, as uint8 without dequantisation noise.

        The shape is ``(B, C, H, W)``.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        chosen = _permutation(len(self.images), self.seed, epoch)[
            index * self.batch_size : (index + 1) * self.batch_size
        ]
        images = stacked(self.images)[np.sort(chosen)]
        return augmented(images, self.augmentation, np.random.default_rng((self.seed, step, 2)))

    def from_step(self, step: int, device: torch.device) -> Generator[Tensor]:
        """Yield an endless sequence of training batches on a device, from the given step on.

        For a GPU a thread prepares the next two while the GPU computes. On a CPU it would take time from the steps.
        """
        batches = (self.batch(each) for each in itertools.count(step))
        if device.type == "cpu":
            yield from batches
            return
        with closing(prefetch(batches)) as prepared:
            for batch in prepared:
                yield send(batch, device)


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng((seed, epoch)).permutation(count)
