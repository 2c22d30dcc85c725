"""Checks that datasets can serve an evaluation, and masks of their defects. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets.storage import Storage
from snf_models.datasets.store import DatasetStore, builtin_file, check_stored, image_facts, summarize
from snf_models.errors import DatasetNotFound, DatasetUnfit, ImageError
from snf_models.texts import choices
from snf_runtime.images.preprocessing import Colour, Preprocessing, conform_mask

MIN_NORMAL_IMAGES = 40
MIN_ANOMALOUS_IMAGES = 2


def check_normals(
    name: str,
    used: Sequence[str],
    preprocessing: Preprocessing,
    adapt: bool,
    data_dir: Path | None,
    store: DatasetStore | None,
) -> None:
    """Raise ``DatasetNotFound``, or ``DatasetUnfit`` for images that are too few, do not fit or were used before."""
    if not adapt:
        check_shape(name, preprocessing, data_dir, store)
    if builtin_file(name, data_dir) is not None:
        if not summarize(name, data_dir).test:
            raise DatasetUnfit(f"{name} has no test images; upload held-out images as a dataset of their own")
        return
    store = check_stored(name, data_dir, store)
    if name in used:
        raise DatasetUnfit(
            f"the model was trained or calibrated on {name}: its p-values come from these images, so false alarms on "
            "them would mean nothing; upload held-out images as a dataset of their own"
        )
    images = store.report(name).images
    if images < MIN_NORMAL_IMAGES:
        raise DatasetUnfit(f"{name} has {images} images; at least {MIN_NORMAL_IMAGES} normal images are needed")


def check_anomalous(
    name: str,
    normal: str,
    preprocessing: Preprocessing,
    adapt: bool,
    data_dir: Path | None,
    store: DatasetStore | None,
) -> None:
    """Raise ``DatasetNotFound``, or ``DatasetUnfit`` for the normal dataset or one that does not fit."""
    if name == normal:
        raise DatasetUnfit(f"{name} is the dataset of normal images")
    if not adapt:
        check_shape(name, preprocessing, data_dir, store)
    if builtin_file(name, data_dir) is None:
        check_stored(name, data_dir, store).require_inspected(name)
    elif summarize(name, data_dir).test < MIN_ANOMALOUS_IMAGES:
        raise DatasetUnfit(f"{name} has no test images")


def check_shape(name: str, preprocessing: Preprocessing, data_dir: Path | None, store: DatasetStore | None) -> None:
    """Raise ``DatasetUnfit`` if the model does not accept the size or colour mode of an image."""
    facts = image_facts(name, data_dir, store)
    problems = []
    if preprocessing.fit == "exact" and (facts.smallest, facts.largest) != (preprocessing.size,) * 2:
        width, height = preprocessing.size
        (low_w, low_h), (high_w, high_h) = facts.smallest, facts.largest
        problems.append(f"they are {low_w}x{low_h} to {high_w}x{high_h}, the model takes {width}x{height}")
    if preprocessing.colour == "exact" and facts.channels != preprocessing.channels:
        have = "partly in colour" if facts.channels is None else "in colour" if facts.coloured else "grey"
        problems.append(f"they are {have}, the model takes {preprocessing.channels} channel(s)")
    if problems:
        raise DatasetUnfit(f"{name}: {'; '.join(problems)}; the option adapt converts size and colour")


def adapted(preprocessing: Preprocessing, adapt: bool) -> Preprocessing:
    """Return a preprocessing that, with ``adapt``, converts images that it would refuse."""
    if not adapt:
        return preprocessing
    colours: dict[int, Colour] = {1: "grey", 3: "rgb"}
    colour = colours.get(preprocessing.channels, "exact")
    return replace(
        preprocessing,
        fit="stretch" if preprocessing.fit == "exact" else preprocessing.fit,
        colour=colour if preprocessing.colour == "exact" else preprocessing.colour,
    )


SUFFIX = "_mask"
"""End of the names of masks in the layout of MVTec AD; it does not count."""


@dataclass(frozen=True)
class MaskPairs:
    """Pairs of images and masks, and those left over."""

    masks: dict[int, str]  # path by the index of the image
    unpaired: tuple[str, ...]  # images
    unused: tuple[str, ...]  # masks


def pair_masks(images: Sequence[str], masks: Sequence[str]) -> MaskPairs:
    """Pair images and masks by file name, and by folders from the innermost outwards, where this is unique.

    >>> pair_masks(["test/hole/000.png", "test/good/000.png"], ["truth/hole/000_mask.png", "truth/cut/000_mask.png"])
    MaskPairs(masks={0: 'truth/hole/000_mask.png'}, unpaired=('test/good/000.png',), unused=('truth/cut/000_mask.png',))
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for mask in masks:
        by_stem[_stem(mask)].append(mask)
    claims: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, name in enumerate(images):
        scored = [(_agreement(name, mask), mask) for mask in by_stem[_stem(name)]]
        best = max((agreement for agreement, _ in scored), default=0)
        fitting = [mask for agreement, mask in scored if agreement == best]
        if len(fitting) == 1:
            claims[fitting[0]].append((best, index))
    pairs = {}
    for mask, of_mask in claims.items():
        best = max(of_mask)[0]
        (index, *others) = [index for agreement, index in of_mask if agreement == best]
        if not others:
            pairs[index] = mask
    used = set(pairs.values())
    return MaskPairs(
        dict(sorted(pairs.items())),
        tuple(name for index, name in enumerate(images) if index not in pairs),
        tuple(mask for mask in masks if mask not in used),
    )


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.removesuffix(SUFFIX)


def _agreement(image: str, mask: str) -> int:
    """Return how many folders of two paths are equal, counted from the innermost one to the first that is not."""
    count = 0
    for one, other in zip(PurePosixPath(image).parts[-2::-1], PurePosixPath(mask).parts[-2::-1], strict=False):
        if one != other:
            break
        count += 1
    return count


class MaskReader:
    """Reader of masks in the size of the model's images."""

    def __init__(self, name: str, storage: Storage, preprocessing: Preprocessing) -> None:
        self._name = name
        self._storage = storage
        self._preprocessing = preprocessing
        self._stored = {stored.path: stored for stored in storage.images("path")}

    @property
    def paths(self) -> list[str]:
        return list(self._stored)

    def read(self, path: str, size: tuple[int, int] | None) -> NDArray[np.bool_]:
        """Return a mask, ``(H, W)``; raise ``DatasetUnfit`` if it is not grey or not of ``size``, (width, height)."""
        try:
            opened = self._storage.image(self._stored[path])
            if size is not None and opened.image.size != size:
                (width, height), (own_width, own_height) = size, opened.image.size
                raise DatasetUnfit(
                    f"{self._name}: expected the mask {path} to be as large as its image, {width}x{height} pixels "
                    f"(width x height), got {own_width}x{own_height}"
                )
            return conform_mask(opened, self._preprocessing)
        except ImageError as error:
            raise DatasetUnfit(f"{self._name}: the mask {path}: {error.detail}") from error


@contextmanager
def open_masks(store: DatasetStore | None, name: str, preprocessing: Preprocessing) -> Iterator[MaskReader]:
    """Open masks; raise ``DatasetNotFound``, and ``DatasetUnfit`` for a dataset that was not inspected."""
    check_masks(store, name)
    assert store is not None
    with Storage.open(store.root / name) as storage:
        yield MaskReader(name, storage, preprocessing)


def check_masks(store: DatasetStore | None, name: str) -> None:
    """Raise ``DatasetNotFound``, and ``DatasetUnfit`` for a dataset that was not inspected."""
    if store is None or not store.has(name):
        known = [] if store is None else store.names()
        raise DatasetNotFound(f"masks are an uploaded dataset, and {name!r} is none; {choices(name, known)}")
    store.require_inspected(name)
