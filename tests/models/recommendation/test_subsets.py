"""The images of a comparison: disjoint, of the train and statistics parts alone, and enough of them or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from models.datasets import Dataset, Images, load_dataset
from models.errors import DatasetUnfit
from models.recommendation.record import RecommendParameters
from models.recommendation.subsets import Subsets, choose_subsets


class Untouchable:
    """A part of a dataset that must not be used in any way."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the calibration part is touched: {name}")

    def __len__(self) -> int:
        raise AssertionError("the calibration part is counted")

    def __getitem__(self, rows: object) -> Any:
        raise AssertionError("the calibration part is read")


def untouchable(dataset: Dataset) -> Dataset:
    return replace(dataset, calibration=cast(Images, Untouchable()))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return untouchable(load_dataset("mnist-mini", None))


def numbered(train: int, statistics: int, folds: bool = False) -> Dataset:
    """A dataset whose images are their numbers, as base-256 digits in four pixels."""
    numbers = np.arange(train + statistics, dtype=">u4").view(np.uint8).reshape(-1, 1, 2, 2)
    images = np.kron(numbers, np.ones((2, 2), dtype=np.uint8))
    parts = np.split(images, [train])
    fold = (np.arange(statistics) % 5).astype(np.int8) if folds else None
    return untouchable(Dataset("numbers", *parts, images[:0], images[:0], "digest", folds=fold))


def numbers_of(images: NDArray[np.uint8]) -> list[int]:
    digits = images[:, 0, ::2, ::2].reshape(-1, 4).astype(np.int64)
    return [int(number) for number in digits @ 256 ** np.arange(3, -1, -1)]


def used(subsets: Subsets) -> list[int]:
    return [*numbers_of(subsets.fit), *numbers_of(subsets.reference), *numbers_of(subsets.good)]


@pytest.mark.parametrize(
    ("train", "statistics", "folds"), [(50_000, 5_000, False), (1_000, 150, False), (180, 120, True)]
)
def test_the_subsets_are_disjoint_and_the_calibration_part_is_not_touched(
    train: int, statistics: int, folds: bool
) -> None:
    subsets = choose_subsets(numbered(train, statistics, folds), 0.01, 0)
    numbers = used(subsets)
    assert len(numbers) == len(set(numbers))
    assert all(number < train for number in [*numbers_of(subsets.fit), *numbers_of(subsets.reference)])
    assert all((number < train) is folds for number in numbers_of(subsets.good))


def test_many_images_are_bounded_and_come_from_everywhere() -> None:
    subsets = choose_subsets(numbered(50_000, 5_000), 0.01, 0)
    counts = subsets.counts
    assert (counts.fit, counts.statistics, counts.ranks, counts.good) == (2000, 500, 1000, 100)
    for images in (subsets.fit, subsets.reference):
        assert len({number // 5000 for number in numbers_of(images)}) == 10
    few = choose_subsets(numbered(50_000, 5_000), 0.01, 0, share=0.1).counts
    assert (few.fit, few.statistics, few.ranks) == (200, 60, 120)
    other = choose_subsets(numbered(50_000, 5_000), 0.01, 1)
    assert numbers_of(other.fit) != numbers_of(subsets.fit)
    assert numbers_of(choose_subsets(numbered(50_000, 5_000), 0.01, 0).fit) == numbers_of(subsets.fit)


def test_few_images_rank_in_folds() -> None:
    subsets = choose_subsets(numbered(180, 120, folds=True), 0.01, 0)
    assert subsets.folds is not None
    assert np.bincount(subsets.folds).tolist() == [12, 12, 11, 12, 11]
    assert (subsets.counts.fit, subsets.counts.statistics, subsets.counts.ranks) == (86, 58, 0)
    assert (subsets.ranks, subsets.counts.good, subsets.good_part) == (58, 36, "train")


def test_too_few_images_are_refused_with_the_number_that_is_needed(digits: Dataset) -> None:
    few = replace(digits, train=digits.train[:99])
    with pytest.raises(DatasetUnfit, match="expected at least 100 of them, mnist-mini has 99: upload more images"):
        choose_subsets(few, 0.01, 0)


def test_images_of_any_size_are_for_features_alone() -> None:
    with pytest.raises(ValidationError, match="so train snf-features"):
        RecommendParameters(fit="tiles")
