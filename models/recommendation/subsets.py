"""Disjoint subsets of a dataset for a comparison. The calibration part is not read."""

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
    """Subsets to fit, calibrate and test, each uint8 ``(n, C, H, W)``."""

    fit: Images
    reference: Images  # of the anomaly statistics, then of the ranks
    statistics: int  # how many of ``reference``; all where there are folds
    folds: NDArray[np.int8] | None  # of ``reference``, where all serve both purposes in turn
    good: Images  # that get the defects
    good_part: Literal["statistics", "train"]

    @property
    def ranks(self) -> int:
        """Number of images that p-values are ranks among."""
        return len(self.reference) - (0 if self.folds is not None else self.statistics)

    @property
    def counts(self) -> ComparedImages:
        return ComparedImages(
            fit=len(self.fit),
            statistics=self.statistics,
            ranks=len(self.reference) - self.statistics,
            good=len(self.good),
            good_part=self.good_part,
        )


def choose_subsets(dataset: Dataset, alpha: float, seed: int, share: float = 1.0) -> Subsets:
    """Choose a ``share`` of the usual numbers, with folds if ranks were too few; raise ``DatasetUnfit``."""
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
    """Raise ``DatasetUnfit`` for fewer than 100 training images."""
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
