"""Training batches. Their order and noise follow from seed and step, so that a resumed run needs no random state."""

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

from snf_models.datasets import Images
from snf_models.devices import send
from snf_models.threads import prefetch
from snf_models.training.augmentation import augmented
from snf_models.training.config import Augmentation
from snf_runtime.images.batch import stacked


@dataclass(frozen=True)
class Batches:
    """Shuffled batches. Noise follows the augmentation: edges repeated with equal noise have unbounded density."""

    images: Images  # uint8 ``(M, C, H, W)``
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

    def from_step(self, step: int, device: torch.device) -> Generator[Tensor]:
        """Yield batches without end. For a GPU a thread prepares two ahead, which would slow a CPU's steps."""
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
