"""How images are shared out: sizes, lots and equal pixels kept together, folds of small datasets."""

import re

import numpy as np
import pytest

from snf_models.anomaly.exchangeability import safe_threshold
from snf_models.datasets.dataset import SplitAssignment, held_out_sizes, split_images
from snf_runtime.anomaly.calibration import smallest_p


def digests(count: int) -> list[bytes]:
    return [b"%d" % index for index in range(count)]


def sizes(shares: SplitAssignment) -> list[int]:
    split = shares.split
    return [split.train, split.statistics, split.calibration]


@pytest.mark.parametrize(
    ("groups", "rule", "reason"),
    [
        (["a"] * 100, "by-image", r"one group of images; whole groups are shared out from 5 on"),
        ([f"{n % 4}" for n in range(100)], "by-image", "4 groups of images; whole groups are shared out from 5 on"),
        ([f"{n % 5}" for n in range(100)], "by-group", "5 groups, none in two parts"),
        ([f"{n % 5}" for n in range(19)], "by-group", "5 groups, none in two parts"),
        ([f"{n % 50}" for n in range(1000)], "by-group", "50 groups"),
        (["big"] * 96 + list("abcd"), "by-image", "whole groups would share out as"),
        (["big"] * 960 + [f"{n}" for n in range(40)], "by-image", "whole groups would share out as"),
    ],
)
def test_rules_of_splitting(groups: list[str], rule: str, reason: str) -> None:
    shares = split_images(groups, digests(len(groups)))
    assert shares.split.rule == rule
    assert re.search(reason, shares.split.reason)
    assert np.bincount(shares.part, minlength=3).tolist() == sizes(shares)
    if rule == "by-image":
        count = len(groups)
        assert sizes(shares) == ([60, 40, 0] if count < 400 else [601, 100, 299])
    else:
        whose = {group: set(shares.part[[one == group for one in groups]]) for group in set(groups)}
        assert all(len(parts) == 1 for parts in whose.values())
        named = {
            part: sorted(group for group, parts in whose.items() if parts == {number})
            for number, part in enumerate(("statistics", "calibration"), start=1)
        }
        assert shares.split.groups == {part: groups for part, groups in named.items() if groups}


@pytest.mark.parametrize("count", [300, 600])
def test_equal_images_go_together(count: int) -> None:
    generator = np.random.default_rng(0)
    for groups in (["a"] * count, [f"{n % 20}" for n in range(count)]):
        same = [b"%d" % number for number in generator.integers(0, count // 2, count)]
        shares = split_images(groups, same)
        assert all(len({shares.part[i] for i in range(count) if same[i] == one}) == 1 for one in set(same))
        assert np.bincount(shares.part, minlength=3)[: 2 if count < 400 else 3].min() > 0


def test_groups_of_copies_are_no_groups() -> None:
    """Six folders with the same twenty images are one lot."""
    for copies, expected in ((6, [72, 48, 0]), (30, [360, 60, 180])):
        count = 20 * copies
        shares = split_images([f"{n // 20}" for n in range(count)], [b"%d" % (n % 20) for n in range(count)])
        assert (shares.split.rule, shares.split.reason.partition(";")[0]) == ("by-image", "one group of images")
        assert sizes(shares) == expected


def test_every_number_of_different_images() -> None:
    for count in range(10, 501):
        shares = split_images(["" for _ in range(count)], digests(count))
        if count >= 400:
            assert shares.fold is None
            assert shares.split.folds == []
            assert sizes(shares) == [count - count // 10 - 3 * count // 10, count // 10, 3 * count // 10]
            continue
        reference = count * 4 // 10
        assert sizes(shares) == [count - reference, reference, 0]
        assert ((shares.fold >= 0) == (shares.part == 1)).all()
        folds = np.bincount(shares.fold[shares.part == 1])
        assert folds.tolist() == shares.split.folds
        assert len(folds) == min(5, reference)
        assert folds.max() - folds.min() <= 1


@pytest.mark.parametrize(
    ("count", "ranks"), [(400, 120), (650, 195), (997, 299), (2000, 299), (2990, 299), (5000, 500)]
)
def test_the_calibration_part_reaches_one_per_cent(count: int, ranks: int) -> None:
    statistics, calibration = held_out_sizes(count)
    assert (statistics, calibration) == (count // 10, ranks)
    assert smallest_p(calibration) < 0.01
    assert (safe_threshold(calibration, 0.01) is not None) == (count >= 997)


def random_dataset(seed: int) -> tuple[list[str], list[bytes]]:
    """Between 10 and 399 images in lots and with copies of all sizes, at least ten of them different."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(10, 400))
    lots = generator.dirichlet(np.full(int(generator.integers(1, 40)), generator.choice([0.2, 1.0, 20.0])))
    groups = [f"lot{n}" for n in generator.choice(len(lots), count, p=lots)]
    kinds = generator.dirichlet(np.full(count, generator.choice([0.05, 1.0, 50.0])))
    same = [b"%d" % n for n in generator.choice(count, count, p=kinds)]
    same[:10] = digests(10)
    if seed % 2:
        same = digests(count)
    return groups, same


@pytest.mark.parametrize("seed", range(100))
def test_folds_of_lots_and_copies(seed: int) -> None:
    groups, same = random_dataset(seed)
    shares = split_images(groups, same)
    reference = shares.part == 1
    assert set(shares.part) == {0, 1}
    assert ((shares.fold >= 0) == reference).all()
    # Equal pixels are in one part and in one fold.
    assert len({(one, part, fold) for one, part, fold in zip(same, shares.part, shares.fold, strict=True)}) == len(
        set(same)
    )
    different = len({one for one, held in zip(same, reference, strict=True) if held})
    assert len(shares.split.folds) == min(5, different) >= 2
    assert min(shares.split.folds) > 0
    assert len({one for one, held in zip(same, reference, strict=True) if not held}) >= 5
    # A copy goes with the first of its kind, so that lots are compared by these.
    first = dict(zip(reversed(same), reversed(groups), strict=True))
    lot = np.array([first[one] for one in same])
    if shares.split.rule == "by-group":
        assert not set(lot[reference]) & set(lot[~reference])
        assert (~reference).sum() * 2 >= len(groups)
        assert reference.sum() * 5 >= len(groups)
    unit = lot if "folds of statistics by group" in shares.split.reason else np.array(same)
    assert all(len(set(shares.fold[reference & (unit == one)])) == 1 for one in set(unit[reference]))
    if unit is lot:
        assert len(set(lot[reference])) >= 5
        assert max(shares.split.folds) <= 0.4 * reference.sum()
    largest = max(np.unique(unit[reference], return_counts=True)[1])
    assert max(shares.split.folds) - min(shares.split.folds) <= largest
    again = split_images(groups, same)
    assert np.array_equal(again.part, shares.part)
    assert again.fold is not None
    assert np.array_equal(again.fold, shares.fold)


def test_both_kinds_of_folds_are_met() -> None:
    reasons = [split_images(*random_dataset(seed)).split.reason for seed in range(100)]
    assert 7 < sum("by group" in reason for reason in reasons) < 93


def test_lots_stay_in_one_fold() -> None:
    groups = [f"{n % 20:02d}" for n in range(300)]
    shares = split_images(groups, digests(300))
    assert sizes(shares) == [180, 120, 0]
    assert shares.fold is not None
    assert all(len({shares.fold[i] for i in range(300) if groups[i] == lot}) == 1 for lot in set(groups))
    assert sorted(shares.split.folds) == [15, 15, 30, 30, 30]
    # Four lots are too few for folds of whole lots.
    few = split_images([f"{n % 10}" for n in range(100)], digests(100)).split
    assert (few.rule, few.folds) == ("by-group", [8, 8, 8, 8, 8])
    assert few.reason.endswith("5 folds of statistics by image")


def test_one_image_many_times_stays_in_training() -> None:
    same = [b"same"] * 300 + digests(9)
    shares = split_images([""] * 309, same)
    assert (shares.part[:300] == 0).all()
    assert sizes(shares) == [304, 5, 0]
    assert shares.split.folds == [1] * 5
