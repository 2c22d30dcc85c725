"""Dataset of images in four parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_models.images.provenance import Provenance, Split
from snf_runtime.images.batch import Batch, stacked
from snf_runtime.images.preprocessing import Preprocessing

Images: TypeAlias = Batch
"""Images, uint8 ``(N, C, H, W)``, in memory or mapped from a file; for a model of tiles ``(C, H, W)`` each."""
PARTS = ("train", "statistics", "calibration")
HELD_OUT_SHARE = 10
"""One in ten images goes to the statistics, and another to the calibration."""
MIN_IMAGES = 10


@dataclass(frozen=True)
class Dataset:
    """Dataset of images in four parts, for training a flow, fitting anomaly statistics, calibration and testing.

    The parts are disjoint. The images have one shape, or any shape if the model cuts them into tiles.

    Attributes:
        name: The name of the dataset.
        train: The images that fit the flow.
        statistics: The images that select the model and fit the anomaly statistics.
        calibration: The images that p-values are ranks among; empty where there are folds.
        test: The images for evaluation only; may be empty.
        digest: The digest of the images and their split.
        preprocessing: The preprocessing of the images; None where they are unchanged.
        provenance: Formats, sizes and conversions of the original images.
        split: How the images were divided into parts.
        folds: For few images, the fold (0 to 4) of every image of ``statistics``, which then also serves calibration.
        whole_folds: For up to 5,000 uploaded images, folds of all of them in the order of the parts, for models whose
            whole fit is repeated.
    """

    name: str
    train: Images
    statistics: Images
    calibration: Images
    test: Images
    digest: str
    preprocessing: Preprocessing | None = None
    provenance: Provenance | None = None
    split: Split | None = None
    folds: NDArray[np.int8] | None = None
    whole_folds: NDArray[np.int8] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape ``(channels, height, width)`` of one image or tile, with the sides in pixels."""
        if self.preprocessing is not None:
            return self.preprocessing.shape
        _, channels, height, width = stacked(self.train).shape
        return channels, height, width


@dataclass(frozen=True)
class DatasetSummary:
    """Image shape ``(C, H, W)`` of a dataset and the number of images of each part."""

    image_shape: tuple[int, int, int]
    train: int
    statistics: int
    calibration: int
    test: int
    folds: int = 0  # of ``statistics``, where they also serve calibration
    whole_folds: int = 0  # of all images, for models whose whole fit is repeated

    @property
    def images(self) -> int:
        return self.train + self.statistics + self.calibration + self.test

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetSummary:
        few, whole = (0 if each is None else int(each.max()) + 1 for each in (dataset.folds, dataset.whole_folds))
        return cls(
            dataset.image_shape,
            len(dataset.train),
            len(dataset.statistics),
            len(dataset.calibration),
            len(dataset.test),
            folds=few,
            whole_folds=whole,
        )


def digest_of(*arrays: NDArray[np.uint8]) -> str:
    """SHA-256 of the shapes and pixels."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(repr(array.shape).encode())
        for image in array:
            content.update(np.ascontiguousarray(image).tobytes())
    return content.hexdigest()
