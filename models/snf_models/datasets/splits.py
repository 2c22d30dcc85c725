"""Split of a dataset into training, statistics and calibration images."""

from __future__ import annotations

import os.path
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets.dataset import HELD_OUT_SHARE, PARTS
from snf_models.images.provenance import Split

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
    part: NDArray[np.int8]  # ``(N,)``, index in ``PARTS``
    fold: NDArray[np.int8] | None  # ``(N,)``, -1 outside the reference part; None without folds
    split: Split


def split_images(groups: Sequence[str], digests: Sequence[bytes]) -> SplitAssignment:
    """Divide images, sorted by path, into parts of whole groups if these suit; equal pixels stay in one part."""
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
    """Return the part of every image, or None if whole groups do not suit, and the reason."""
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
    """Return the sizes of statistics and calibration; below 400 images of the part that serves both, and 0."""
    if total < SMALL:
        return total * REFERENCE_PERCENT // 100, 0
    tenth = total // HELD_OUT_SHARE
    return tenth, max(tenth, min(CALIBRATION_IMAGES, int(CALIBRATION_SHARE * total)))


def _share(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the part of every image; ``unit`` numbers what stays together: equal images, or whole groups."""
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(sizes)).tolist()
    part = np.zeros(len(sizes), dtype=np.int8)
    for held_out, target in enumerate(held_out_sizes(len(unit)), start=1):
        _take(part, held_out, order, sizes, target)
    return part[unit]


def _share_few(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Keep half of the units and very large ones in training, and two in reference: no part is copies of one unit."""
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
    """Assign about ``target`` images, at most ``most`` but at least one unit, in the given order."""
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
    """Return for every image the index of the first image with the same pixels."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, place) for place, digest in enumerate(digests)])


FOLDS = 5
MAX_FOLD_SHARE = 0.4
"""Largest share of images in one of five folds of whole groups; a larger group makes the folds too unequal."""


def fold_units(
    groups: NDArray[np.int64], images: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int8], str]:
    """Return the fold of each image, ``(N,)``, and "by group" or "by image": groups stay whole where they can."""
    if len(np.unique(groups)) >= FOLDS:
        folds = _balanced(groups, generator)
        if np.bincount(folds).max() <= MAX_FOLD_SHARE * len(folds):
            return folds, "by group"
    return _balanced(images, generator), "by image"


def _balanced(unit: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int8]:
    """Largest unit first to the smallest fold, so that sizes differ by at most one unit (Graham 1969)."""
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
    """Assign groups, by folder unless given, and parts; store the split in the index."""
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
    """Return the fold of each image, ``(N,)``, in the order of the parts and by path in each."""
    rows = index.execute('SELECT "group", digest FROM images ORDER BY part, path').fetchall()
    number = {group: place for place, group in enumerate(sorted({group for group, _ in rows}))}
    images = _first_places([digest for _, digest in rows])
    # Equal images of several groups count as one group, that of the first of them.
    groups = np.array([number[group] for group, _ in rows])[images]
    return fold_units(groups, images, np.random.default_rng(SEED))[0]


def folder_groups(paths: Sequence[str]) -> list[str]:
    """Return the first folder below the one that all paths have in common, else ``""``.

    >>> folder_groups(["solar/lot1/a.png", "solar/lot1/sub/b.png", "solar/lot2/a.png", "solar/c.png"])
    ['lot1', 'lot1', 'lot2', '']
    """
    folders = [path.rpartition("/")[0] for path in paths]
    common = os.path.commonpath(folders) if all(folders) else ""
    return [folder[len(common) :].lstrip("/").partition("/")[0] for folder in folders]
