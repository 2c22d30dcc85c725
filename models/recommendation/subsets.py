"""Choice of the images for a comparison of model families: disjoint subsets of a dataset.

The subsets are from the train part, except that good images may be from the statistics part. The calibration part is
not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.anomaly.fitting.reference_images import EvenlySpaced
from models.artifacts.detection_limit import MIN_LIMIT_IMAGES
from models.datasets import Dataset, Images
from models.datasets.splits import FOLDS
from models.errors import DatasetUnfit
from models.recommendation.record import ComparedImages
from snf_runtime.images.batch import stacked

MAX_AND_MIN_IMAGES = ((2000, 200), (500, 60), (1000, 120))
"""Most images for fit, statistics and ranks, and how many are taken where time is short, if there are so many."""
MAX_GOOD = 100
"""Most images that get defects."""
MIN_TRAIN = 100
"""Fewest images of the train part that can be divided."""
FIT_SHARE, STATISTICS_SHARE = 0.6, 0.13
"""Shares of the divided images; the rest gives the ranks."""
GOOD_SHARE = 0.2
"""Share of the train part that gets the defects where the statistics part cannot."""
BLOCKS = 100
"""Runs of consecutive images that are kept together: images that follow each other may show the same part."""


@dataclass(frozen=True)
class Subsets:
    """Disjoint subsets of a dataset's images to fit, calibrate and test the compared model families.

    Each set is uint8 ``(n, C, H, W)``.

    Attributes:
        fit: The images that the families are fitted to.
        reference: The images of the anomaly statistics, then those of the ranks.
        statistics: How many of ``reference`` fit the statistics; all where there are folds.
        folds: The fold of each reference image, where all of them serve both purposes in turn; None otherwise.
        good: The images that get the defects.
        good_part: The part of the dataset that ``good`` is from.
    """

    fit: Images
    reference: Images
    statistics: int
    folds: NDArray[np.int8] | None
    good: Images
    good_part: Literal["statistics", "train"]

    @property
    def ranks(self) -> int:
        """Number of normal images among which a new image is ranked to get its p-value."""
        return len(self.reference) - (0 if self.folds is not None else self.statistics)

    @property
    def counts(self) -> ComparedImages:
        """The numbers of images that are used to fit, calibrate and test the compared models."""
        return ComparedImages(
            fit=len(self.fit),
            statistics=self.statistics,
            ranks=len(self.reference) - self.statistics,
            good=len(self.good),
            good_part=self.good_part,
        )


def choose_subsets(dataset: Dataset, alpha: float, seed: int, share: float = 1.0) -> Subsets:
    """Choose disjoint subsets of a dataset for a comparison of model families.

    The train part is divided into images for fit, statistics and ranks. Good images are from the statistics part.

    Where the statistics part also serves the p-values of a model (below 400 images), or has fewer than 29 images, the
    good images are from the train part, too. Where the ranks would be too few for ``alpha``, statistics and ranks are
    one set in five folds.

    Args:
        dataset: The dataset; its calibration part is not touched.
        alpha: The wanted false-alarm rate.
        seed: The seed of the division.
        share: Share of the usual numbers of images to take, where time is short.

    Raises:
        DatasetUnfit: The train part has fewer than 100 images.
    """
    train, total = stacked(dataset.train), len(dataset.train)
    check_train_images(dataset.name, total)
    from_train = dataset.folds is not None or len(dataset.statistics) < MIN_LIMIT_IMAGES
    kept = max(MIN_LIMIT_IMAGES, round(GOOD_SHARE * total)) if from_train else 0
    left = total - kept
    most = [max(fewest, round(share * number)) for number, fewest in MAX_AND_MIN_IMAGES]
    sizes = [round(FIT_SHARE * left), round(STATISTICS_SHARE * left)]
    ranges = _deal(total, [*sizes, left - sum(sizes), kept], seed)
    fit, statistics, ranks = (train[_spaced(rows, count)] for rows, count in zip(ranges[:3], most, strict=True))
    good: Images = (
        train[_spaced(ranges[3], MAX_GOOD)] if from_train else EvenlySpaced([dataset.statistics], MAX_GOOD)[:]
    )
    reference = np.concatenate([statistics, ranks])
    folds = None
    if (len(ranks) + 1) * alpha < 1:
        folds = (np.arange(len(reference)) * FOLDS // len(reference)).astype(np.int8)
    return Subsets(
        fit,
        reference,
        len(statistics) if folds is None else len(reference),
        folds,
        good,
        "train" if from_train else "statistics",
    )


def check_train_images(name: str, train: int) -> None:
    """Check that a dataset has at least 100 training images.

    Raises ``DatasetUnfit`` otherwise. ``name`` is the name of the dataset.
    """
    if train < MIN_TRAIN:
        raise DatasetUnfit(
            f"a comparison of families divides the training images, expected at least {MIN_TRAIN} of them, "
            f"{name} has {train}: upload more images, or train snf-features, which suits few images"
        )


def _deal(total: int, counts: list[int], seed: int) -> list[NDArray[np.intp]]:
    """Return disjoint rising row numbers below ``total``, as many as counted, dealt in shuffled blocks."""
    blocks = np.array_split(np.arange(total), min(BLOCKS, total))
    order = np.random.default_rng(seed).permutation(len(blocks))
    rows = np.concatenate([blocks[block] for block in order])
    ends = np.cumsum(counts)
    return [np.sort(part) for part in np.split(rows, ends)[: len(counts)]]


def _spaced(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Return at most ``most`` of the rows, evenly spaced."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.intp)
    return rows[places]
