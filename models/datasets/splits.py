"""Split of a dataset into training, statistics and calibration images.

Statistics get 10 %. Calibration gets as much, or 30 % up to 299 images: with 99 images a false-alarm rate of 1 % is
attainable, and with 299 it holds with 95 % confidence.

Duplicates stay in one part, and so do the images of a group if there are enough groups of suitable sizes.

Below 400 images, 60 % go to training and 40 % to a reference part in folds, which serves statistics and calibration
(cross-conformal prediction, Vovk 2015).
"""

from __future__ import annotations

import os.path
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.datasets.dataset import HELD_OUT_SHARE, PARTS
from models.images.provenance import Split

SEED = 0
MIN_GROUPS = 5
MAX_LISTED = 100
SMALL = 400
"""Images from which on there is a calibration part: a share of fewer images would give coarse p-values."""
CALIBRATION_IMAGES, CALIBRATION_SHARE = 299, 0.3
"""Images that calibration gets if they are at most this share: safe_threshold(n, 0.01) exists from n = 299 on."""
MOST_REPEATED = 5_000
"""Images up to which the whole fit of a feature model is repeated in folds, so that every image gives a rank."""
REFERENCE_PERCENT = 40
"""Share of a small dataset that is kept from training, in per cent."""


@dataclass(frozen=True)
class SplitAssignment:
    """Assignment of each image of a dataset to its use: training, anomaly statistics or calibration.

    In a small dataset, some images also have a fold, for cross-conformal prediction.

    Attributes:
        part: The part of each image, ``(N,)``, 0 to 2 in the order of ``PARTS``.
        fold: The fold of each image of the reference part, -1 for other images, ``(N,)``; None without folds.
        split: The rule, its reason and the sizes of the parts.
    """

    part: NDArray[np.int8]
    fold: NDArray[np.int8] | None
    split: Split


def split_images(groups: Sequence[str], digests: Sequence[bytes]) -> SplitAssignment:
    """Divide the images of a dataset into parts for training, for anomaly statistics and for calibration.

    Images with equal pixels are in one part.

    The shares are those of :func:`held_out_sizes`. Below 400 images statistics and calibration are one part in folds,
    the reference part, of 40 %.

    Whole groups are assigned where there are at least five, and the parts get usable sizes: half of the images for
    training, and a twentieth for each other part, or below 400 images half of its share. Otherwise single images are
    assigned. Folds follow the same rule, with the groups of the reference part. Equal images stay together, whatever
    their group, so that the same pixels are never in two parts or two folds.

    Args:
        groups: The group of every image, with images sorted by path: the order of upload has no influence.
        digests: The digest of the pixels of every image. At least 10 must differ.
    """
    first_of = _first_places(digests)
    names = sorted(set(groups))
    number = {name: index for index, name in enumerate(names)}
    by_group = np.array([number[group] for group in groups])[first_of]
    total = len(groups)
    share = _share_few if total < SMALL else _share
    part, reason = _whole_groups(by_group, share)
    whose: dict[str, list[str]] = {}
    if part is None:
        part = share(first_of)
    else:
        owner = dict(zip(by_group.tolist(), part.tolist(), strict=True))
        whose = {PARTS[of]: [name for name in names if owner.get(number[name]) == of][:MAX_LISTED] for of in (1, 2)}
    fold, fold_sizes = None, list[int]()
    if total < SMALL:
        reference = part == 1
        folds, folded = fold_units(by_group[reference], first_of[reference], np.random.default_rng(SEED))
        fold = np.full(total, -1, dtype=np.int8)
        fold[reference] = folds
        fold_sizes = np.bincount(folds).tolist()
        reason += (
            f"; fewer than {SMALL} images: no calibration part, but {len(fold_sizes)} folds of statistics {folded}"
        )
    split = Split.model_validate(
        {
            "rule": "by-group" if whose else "by-image",
            "reason": reason,
            "seed": SEED,
            "groups": {part_name: groups_of_part for part_name, groups_of_part in whose.items() if groups_of_part},
            "folds": fold_sizes,
            **dict(zip(PARTS, np.bincount(part, minlength=3).tolist(), strict=True)),
        }
    )
    return SplitAssignment(part, fold, split)


def _whole_groups(
    group: NDArray[np.int64], share: Callable[[NDArray[np.int64]], NDArray[np.int8]]
) -> tuple[NDArray[np.int8] | None, str]:
    """Return the part of every image in a split by whole groups, or None if that is unsuitable, and the reason."""
    different = len(np.unique(group))
    if different < MIN_GROUPS:
        groups = "one group" if different == 1 else f"{different} groups"
        return None, f"{groups} of images; whole groups are shared out from {MIN_GROUPS} on"
    part = share(group)
    sizes = np.bincount(part, minlength=3)
    if not _usable(sizes, len(group)):
        return None, f"whole groups would share out as {'/'.join(map(str, sizes))}"
    return part, f"{different} groups, none in two parts"


def _usable(sizes: NDArray[np.int64], total: int) -> bool:
    """Return whether training gets half of the images, and the other parts half of their intended share."""
    train, statistics, calibration = sizes.tolist()
    if total < SMALL:
        return bool(train * 2 >= total and statistics * 200 >= total * REFERENCE_PERCENT)
    # Whole groups that give few ranks are better than groups in two parts, so a twentieth will do for calibration, too.
    return bool(train * 2 >= total and min(statistics, calibration) * 2 * HELD_OUT_SHARE >= total)


def held_out_sizes(total: int) -> tuple[int, int]:
    """Return how many of a number of images are held out for statistics and for calibration.

    Below 400 images the first number is that of the reference part, which serves both, and the second is 0.
    """
    if total < SMALL:
        return total * REFERENCE_PERCENT // 100, 0
    tenth = total // HELD_OUT_SHARE
    return tenth, max(tenth, min(CALIBRATION_IMAGES, int(CALIBRATION_SHARE * total)))


def _share(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the part of every image in a seeded random split that keeps units of images together.

    ``unit`` is the unit of each image: equal images, or whole groups.
    """
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(sizes)).tolist()
    part = np.zeros(len(sizes), dtype=np.int8)
    for held_out, target in enumerate(held_out_sizes(len(unit)), start=1):
        _take(part, held_out, order, sizes, target)
    return part[unit]


def _share_few(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the part of every image, training or reference, in a split of few images that keeps units together.

    Training keeps at least half of the units, and any unit of more than three quarters of the reference part, which
    gets at least two units. So neither part consists of copies of one image, or of one group.
    """
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    target, _ = held_out_sizes(len(unit))
    shuffled = np.random.default_rng(SEED).permutation(len(sizes)).tolist()
    order = [candidate for candidate in shuffled if 4 * sizes[candidate] <= 3 * target]
    part = np.zeros(len(sizes), dtype=np.int8)
    _take(part, 1, order, sizes, target, most=len(sizes) // 2)
    if part.sum() < 2:
        free = [candidate for candidate in order if not part[candidate]]
        part[min(free, key=lambda candidate: (sizes[candidate], candidate))] = 1
    return part[unit]


def _take(
    part: NDArray[np.int8],
    held_out: int,
    order: Sequence[int],
    sizes: NDArray[np.int64],
    target: int,
    most: int | None = None,
) -> None:
    """Assign about ``target`` images to the part ``held_out``, from free units in the given order.

    At least one unit is taken, at most ``most``.
    """
    taken = count = 0
    for candidate in order:
        if taken >= target or count == most:
            break
        # A unit is assigned where it brings the part nearer to its size.
        if part[candidate] == 0 and abs(taken + sizes[candidate] - target) < abs(taken - target):
            part[candidate] = held_out
            taken += int(sizes[candidate])
            count += 1
    if taken == 0:
        free = np.flatnonzero(part == 0)
        part[free[np.argmin(sizes[free])]] = held_out


def _first_places(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Return, for every image, the index of the first image with the same pixels."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, place) for place, digest in enumerate(digests)])


FOLDS = 5
MAX_FOLD_SHARE = 0.4
"""Largest share of images in one of five folds of whole groups; a larger group makes the folds too unequal."""


def fold_units(
    groups: NDArray[np.int64], images: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int8], str]:
    """Divide images into up to five folds, or subsets, of similar size; keep groups together if possible.

    The folds serve cross-conformal p-values.

    Returns the fold of each image, 0 to 4, ``(N,)``, and "by group" or "by image".

    Folds are made of whole groups where there are at least five, and no fold gets more than two fifths of the images.
    Otherwise they are made of images. Fewer than five different images give as many folds.

    Args:
        groups: The number of the group of every image, ``(N,)``. Equal images are in one group.
        images: A number for every image, ``(N,)``, equal for equal pixels.
        generator: The random generator that orders units of equal size.
    """
    if len(np.unique(groups)) >= FOLDS:
        folds = _balanced(groups, generator)
        if np.bincount(folds).max() <= MAX_FOLD_SHARE * len(folds):
            return folds, "by group"
    return _balanced(images, generator), "by image"


def _balanced(unit: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int8]:
    """Assign units of images to folds: the largest unit first, to the fold with the fewest images so far.

    The sizes of the folds then differ by at most one unit (Graham 1969). Units of equal size are in random order.
    """
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    shuffled = generator.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled = np.zeros(min(FOLDS, len(sizes)), dtype=np.int64)
    fold = np.empty(len(sizes), dtype=np.int8)
    for candidate in order:
        fold[candidate] = np.argmin(filled)
        filled[fold[candidate]] += sizes[candidate]
    return fold[unit]


def group_and_split(index: sqlite3.Connection) -> Split:
    """Assign each image of a new dataset to a group and to a use, such as training.

    Images without a given group are grouped by folder.

    The uses are training, fitting anomaly statistics, and calibration.

    The split is stored in the dataset's index and returned.
    """
    rows = index.execute('SELECT id, path, "group", digest FROM images ORDER BY path').fetchall()
    of_folders = folder_groups([path for _, path, _, _ in rows])
    groups = [folder if given is None else given for (_, _, given, _), folder in zip(rows, of_folders, strict=True)]
    shares = split_images(groups, [digest for *_, digest in rows])
    folds = (
        [None] * len(rows) if shares.fold is None else [fold if fold >= 0 else None for fold in shares.fold.tolist()]
    )
    index.executemany(
        'UPDATE images SET "group" = ?, part = ?, fold = ? WHERE id = ?',
        zip(groups, shares.part.tolist(), folds, (row[0] for row in rows), strict=True),
    )
    return shares.split


def folds_of_all(index: sqlite3.Connection) -> NDArray[np.int8]:
    """Divide all images of a dataset into at most five folds (subsets) of similar size.

    Returns the fold of each image, ``(N,)``: training images first, and the images of each part by path.

    Groups and equal images are kept together as in :func:`fold_units`.
    """
    rows = index.execute('SELECT "group", digest FROM images ORDER BY part, path').fetchall()
    number = {group: place for place, group in enumerate(sorted({group for group, _ in rows}))}
    images = _first_places([digest for _, digest in rows])
    # Equal images of several groups count as one group, that of the first of them.
    groups = np.array([number[group] for group, _ in rows])[images]
    return fold_units(groups, images, np.random.default_rng(SEED))[0]


def folder_groups(paths: Sequence[str]) -> list[str]:
    """Return a group name for each image path, so that images in the same subfolder form a group.

    It is the first folder below the folder that all paths have in common.

    The group is ``""`` without such a folder.

    >>> folder_groups(["solar/lot1/a.png", "solar/lot1/sub/b.png", "solar/lot2/a.png", "solar/c.png"])
    ['lot1', 'lot1', 'lot2', '']
    """
    folders = [path.rpartition("/")[0] for path in paths]
    common = os.path.commonpath(folders) if all(folders) else ""
    return [folder[len(common) :].lstrip("/").partition("/")[0] for folder in folders]
