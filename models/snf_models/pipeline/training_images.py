"""Sequences of training images and their tiles. The module does not import PyTorch."""

from __future__ import annotations

from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets import Dataset
from snf_models.flows.architecture import FeatureArchitecture
from snf_runtime.images.batch import Batch, TilePlan, joined, size_of, stacked, tile_plan
from snf_runtime.images.preprocessing import Pixels


class TrainingImages(Protocol):
    """Sequence of images, uint8 ``(C, H, W)``, of which a slice is a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Batch: ...


class TrainingSamples:
    """Samples: each image as a whole, or all of its tiles. ``owners`` has the image of each sample."""

    def __init__(self, images: TrainingImages, architecture: FeatureArchitecture) -> None:
        self.images = images
        self.plans = plans_of(images, architecture) if architecture.tiled else None
        counts = [1] * len(images) if self.plans is None else [len(plan) for plan in self.plans]
        self._firsts = [0, *accumulate(counts)]
        self.owners: NDArray[np.intp] = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, rows: slice, /) -> Pixels:
        """Return samples, uint8 ``(n, C, H, W)``."""
        if self.plans is None:
            return np.ascontiguousarray(stacked(self.images[rows]))
        numbers = range(*rows.indices(len(self)))
        return np.stack([self._tile(number) for number in numbers])

    def _tile(self, number: int) -> Pixels:
        assert self.plans is not None
        owner = int(self.owners[number])
        return self.plans[owner].cut(self.images[owner : owner + 1][0], number - self._firsts[owner])


class ChosenImages:
    """Some of other training images, by rising numbers."""

    def __init__(self, images: TrainingImages, chosen: NDArray[np.intp]) -> None:
        self._images = images
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, rows: slice, /) -> Batch:
        return [self._images[number : number + 1][0] for number in self._chosen[rows].tolist()]


def every_image(dataset: Dataset) -> TrainingImages:
    """Return the images of all parts but the test images."""
    return EveryImage((dataset.train, dataset.statistics, dataset.calibration))


class EveryImage:
    def __init__(self, parts: tuple[Batch, ...]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, rows: slice, /) -> Batch:
        start, stop, _ = rows.indices(len(self))
        taken, first = [], 0
        for part in self._parts:
            taken.append(part[max(start - first, 0) : max(stop - first, 0)])
            first += len(part)
        return joined(taken)


def plans_of(images: TrainingImages, architecture: FeatureArchitecture) -> tuple[TilePlan, ...]:
    """Return the tiles of each image, without loading mapped pixels."""
    side, stride = architecture.height, architecture.height // architecture.rows
    each = (images[number : number + 1][0] for number in range(len(images)))
    return tuple(tile_plan(*size_of(image), side, stride) for image in each)
