"""Sharing a dataset out: 80 % training, 10 % statistics, 10 % calibration, lots and duplicates kept together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.datasets.parts import HELD_OUT_SHARE, PARTS
from models.provenance import Split

SEED = 0
MIN_GROUPS = 5
MAX_LISTED = 100


def split_images(groups: Sequence[str], digests: Sequence[bytes]) -> tuple[NDArray[np.int8], Split]:
    """Return the part of every image, 0 to 2 in the order of ``PARTS``, and how it was chosen.

    ``groups``: the group of every image. ``digests``: equal for equal pixels. By group where there are at least
    five and the parts then come out usable: at least 5 % each for statistics and calibration, half for training.
    Else by image. Equal images go where the first of them goes, whatever their group: no pixels are in two parts.
    The same images give the same split, in whatever order they were uploaded, as long as they are given sorted. At
    least 10 images must differ.
    """
    first_of = _first_places(digests)
    names = sorted(set(groups))
    number = {name: index for index, name in enumerate(names)}
    by_group = np.array([number[group] for group in groups])[first_of]
    total = len(groups)
    different = len(np.unique(by_group))
    if different < MIN_GROUPS:
        reason = f"{different} group(s), at least {MIN_GROUPS} are needed to share out whole groups"
    else:
        part = _share(by_group)
        sizes = np.bincount(part, minlength=3)
        if sizes[0] * 2 >= total and sizes[1:].min() * 20 >= total:
            owner = dict(zip(by_group.tolist(), part.tolist(), strict=True))
            whose = {PARTS[of]: [name for name in names if owner.get(number[name]) == of][:MAX_LISTED] for of in (1, 2)}
            return part, _record("by-group", f"{different} groups, none in two parts", sizes, whose)
        reason = f"whole groups would share out as {'/'.join(map(str, sizes))}"
    part = _share(first_of)
    return part, _record("by-image", reason, np.bincount(part, minlength=3), {})


def _share(unit: NDArray[np.int64]) -> NDArray[np.int8]:
    """Share whole units out by a seeded permutation; ``unit`` is that of every image."""
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(sizes)).tolist()
    target = max(1, len(unit) // HELD_OUT_SHARE)
    part = np.zeros(len(sizes), dtype=np.int8)
    for held_out in (1, 2):
        taken = 0
        for candidate in order:
            # A unit is taken where it brings the part nearer to its size.
            if part[candidate] == 0 and abs(taken + sizes[candidate] - target) < abs(taken - target):
                part[candidate] = held_out
                taken += int(sizes[candidate])
            if taken >= target:
                break
        if taken == 0:
            free = np.flatnonzero(part == 0)
            part[free[np.argmin(sizes[free])]] = held_out
    return part[unit]


def _first_places(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Return for every image the place of the first one with the same pixels."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, place) for place, digest in enumerate(digests)])


def _record(rule: str, reason: str, sizes: NDArray[np.int64], groups: dict[str, list[str]]) -> Split:
    counts = dict(zip(PARTS, map(int, sizes), strict=True))
    return Split.model_validate({"rule": rule, "reason": reason, "seed": SEED, "groups": groups, **counts})
