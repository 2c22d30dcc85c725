"""A dataset as training sees it: images of one shape in disjoint parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.images.preprocessing import Preprocessing
from models.images.provenance import Provenance, Split

Images = NDArray[np.uint8]
"""Images ``(N, C, H, W)``, uint8; perhaps mapped from a file."""
PARTS = ("train", "statistics", "calibration")
HELD_OUT_SHARE = 10
"""One image in so many goes to the statistics, and another to the calibration."""
MIN_IMAGES = 10


@dataclass(frozen=True)
class Dataset:
    """Images in four disjoint parts, or three.

    ``train`` fits the flow, ``statistics`` selects the model and fits the anomaly statistics, ``calibration`` gives
    p-values and nothing else, ``test`` is touched by evaluation alone and may be empty. ``folds``: where images are too
    few for a calibration part, which then is empty, the fold 0 ... 4 of every image of ``statistics``, which serves
    both; else None. ``preprocessing``: what was done to the images; None where they are as they came.
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.train.shape
        return channels, height, width


@dataclass(frozen=True)
class DatasetSummary:
    """The shape ``(C, H, W)`` of a dataset's images and how many each of its parts has.

    ``folds``: how many the reference part ``statistics`` has where it serves calibration, too; else 0.
    """

    image_shape: tuple[int, int, int]
    train: int
    statistics: int
    calibration: int
    test: int
    folds: int = 0


def digest_of(*arrays: Images) -> str:
    """Return the SHA-256 of the shapes and pixels of ``arrays``."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(repr(array.shape).encode())
        for image in array:
            content.update(np.ascontiguousarray(image).tobytes())
    return content.hexdigest()
