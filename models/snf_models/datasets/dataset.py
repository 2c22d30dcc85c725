"""Dataset of images in four parts, and its split into them."""

from __future__ import annotations

import hashlib
import os.path
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.datasets import Split
from snf_models.images import Provenance
from snf_runtime.images.batch import Batch, stacked
from snf_runtime.images.preprocessing import Preprocessing

Images: TypeAlias = Batch
"""Images, uint8 ``(N, C, H, W)``, in memory or mapped from a file; for a model of tiles ``(C, H, W)`` each."""
Progress = Callable[[int, int], None]
"""A function that is called with the work done and all work. What it raises ends the work and leaves no files."""
PARTS = ("train", "statistics", "calibration")
HELD_OUT_SHARE = 10  # one in ten images goes to the statistics, and another to the calibration
MIN_IMAGES = 10


def no_progress(_done: int, _total: int) -> None:
    pass


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
    content = hashlib.sha256()
    for array in arrays:
        content.update(repr(array.shape).encode())
        for image in array:
            content.update(np.ascontiguousarray(image).tobytes())
    return content.hexdigest()


SEED = 0
MIN_GROUPS = 5
MAX_LISTED = 100
SMALL = 400  # images from which on there is a calibration part: a share of fewer images would give coarse p-values
CALIBRATION_IMAGES, CALIBRATION_SHARE = 299, 0.3
"""Images that calibration gets if they are at most this share: safe_threshold(n, 0.01) exists from n = 299 on."""
MOST_REPEATED = 5_000
"""Images up to which the whole fit of a feature model is repeated in folds, so that every image gives a rank."""
REFERENCE_PERCENT = 40  # share of a small dataset that is kept from training, in per cent


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
