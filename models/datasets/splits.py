"""Sharing a dataset out, lots and duplicates kept together: 80 % training, 10 % statistics, 10 % calibration.

Few images go 60 % to training and 40 % to a reference part in folds, which serves statistics and calibration together.
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
"""Fewer images than this have no calibration part of their own: a tenth of them would give coarse p-values."""
REFERENCE_PERCENT = 40
"""Share of a small dataset that trains nothing."""


@dataclass(frozen=True)
class SplitAssignment:
    """Where every image goes, ``(N,)`` each, and how that was chosen.

    ``part``: 0 to 2 in the order of ``PARTS``. ``fold``: that of an image of the reference part, else -1; None where
    there are no folds.
    """

    part: NDArray[np.int8]
    fold: NDArray[np.int8] | None
    split: Split


def split_images(groups: Sequence[str], digests: Sequence[bytes]) -> SplitAssignment:
    """Return the part of every image, and below 400 images the folds of the reference part.

    ``groups``: the group of every image. ``digests``: equal for equal pixels. By group where there are at least
    five and the parts then come out usable: half of the images for training, and half of the share that each other part
    is to have. Else by image. Folds are made by the same rule from the groups of the reference part. Equal images go
    where the first of them goes, whatever their group: no pixels are in two parts, nor in two folds. The same images
    give the same split, in whatever order they were uploaded, as long as they are given sorted. At least 10 images must
    differ.
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
            "groups": {name: found for name, found in whose.items() if found},
            "folds": fold_sizes,
            **dict(zip(PARTS, np.bincount(part, minlength=3).tolist(), strict=True)),
        }
    )
    return SplitAssignment(part, fold, split)


def _whole_groups(
    group: NDArray[np.int64], share: Callable[[NDArray[np.int64]], NDArray[np.int8]]
) -> tuple[NDArray[np.int8] | None, str]:
    """Share whole groups out and say so; None where that cannot be, and why."""
    different = len(np.unique(group))
    if different < MIN_GROUPS:
        return None, f"{different} group(s), at least {MIN_GROUPS} are needed to share out whole groups"
    part = share(group)
    sizes = np.bincount(part, minlength=3)
    if not _usable(sizes, len(group)):
        return None, f"whole groups would share out as {'/'.join(map(str, sizes))}"
    return part, f"{different} groups, none in two parts"


def _usable(sizes: NDArray[np.int64], total: int) -> bool:
    """Whether training has half of the images, and the other parts half of their share."""
    train, statistics, calibration = sizes.tolist()
    if total < SMALL:
        return bool(train * 2 >= total and statistics * 200 >= total * REFERENCE_PERCENT)
    return bool(train * 2 >= total and min(statistics, calibration) * 2 * HELD_OUT_SHARE >= total)


def _share(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Share whole units out by a seeded permutation; ``unit`` is that of every image."""
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(sizes)).tolist()
    target = max(1, len(unit) // HELD_OUT_SHARE)
    part = np.zeros(len(sizes), dtype=np.int8)
    for held_out in (1, 2):
        _take(part, held_out, order, sizes, target)
    return part[unit]


def _share_few(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Share whole units out to training and reference; ``unit`` is that of every image.

    Training keeps half of the units, and those of more than three quarters of the reference part; the latter gets two
    at least. So neither is one image, or one lot, many times.
    """
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    target = len(unit) * REFERENCE_PERCENT // 100
    order = [
        one for one in np.random.default_rng(SEED).permutation(len(sizes)).tolist() if 4 * sizes[one] <= 3 * target
    ]
    part = np.zeros(len(sizes), dtype=np.int8)
    _take(part, 1, order, sizes, target, most=len(sizes) // 2)
    if part.sum() < 2:
        free = [one for one in order if not part[one]]
        part[min(free, key=lambda one: (sizes[one], one))] = 1
    return part[unit]


def _take(
    part: NDArray[np.int8],
    held_out: int,
    order: Sequence[int],
    sizes: NDArray[np.int64],
    target: int,
    most: int | None = None,
) -> None:
    """Give the part ``held_out`` about ``target`` images: free units in their order, ``most`` at most, one at least."""
    taken = count = 0
    for candidate in order:
        if taken >= target or count == most:
            break
        # A unit is taken where it brings the part nearer to its size.
        if part[candidate] == 0 and abs(taken + sizes[candidate] - target) < abs(taken - target):
            part[candidate] = held_out
            taken += int(sizes[candidate])
            count += 1
    if taken == 0:
        free = np.flatnonzero(part == 0)
        part[free[np.argmin(sizes[free])]] = held_out


def _first_places(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Return for every image the place of the first one with the same pixels."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, place) for place, digest in enumerate(digests)])


FOLDS = 5
MAX_FOLD_SHARE = 0.4
"""Twice the share of a fold in five: a lot above it makes folds of whole lots too unequal."""


def fold_units(
    groups: NDArray[np.int64], images: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int8], str]:
    """Return the fold of every image, ``(N,)`` in 0 ... 4, and "by group" or "by image".

    ``groups``, ``images``: ``(N,)`` numbers, equal for one lot, and for equal pixels, which are of one lot. By group
    where there are five or more and no fold gets more than two fifths of the images; else by image. Where fewer than
    five images differ there are as many folds as different images.
    """
    if len(np.unique(groups)) >= FOLDS:
        folds = _balanced(groups, generator)
        if np.bincount(folds).max() <= MAX_FOLD_SHARE * len(folds):
            return folds, "by group"
    return _balanced(images, generator), "by image"


def _balanced(unit: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int8]:
    """Give whole units, the largest first, to the fold that has the fewest images yet.

    Sizes then differ by one unit at most (Graham 1969); units of one size are taken in a random order.
    """
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    shuffled = generator.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled = np.zeros(min(FOLDS, len(sizes)), dtype=np.int64)
    fold = np.empty(len(sizes), dtype=np.int8)
    for one in order:
        fold[one] = np.argmin(filled)
        filled[fold[one]] += sizes[one]
    return fold[unit]


def group_and_split(index: sqlite3.Connection) -> Split:
    """Fill the columns ``group``, ``part`` and ``fold`` of a dataset's table and return how it was shared out."""
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


def folder_groups(paths: Sequence[str]) -> list[str]:
    """Return the first folder of every path below the folder that all of them have in common; ``""`` for none.

    >>> folder_groups(["solar/lot1/a.png", "solar/lot1/sub/b.png", "solar/lot2/a.png", "solar/c.png"])
    ['lot1', 'lot1', 'lot2', '']
    """
    folders = [path.rpartition("/")[0] for path in paths]
    common = os.path.commonpath(folders) if all(folders) else ""
    return [folder[len(common) :].lstrip("/").partition("/")[0] for folder in folders]
