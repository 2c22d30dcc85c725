"""Metrics of localisation, against thresholds tried one by one, and the pairs of images and masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.evaluation.localisation_metrics import PIMO_RANGE, PRO_LIMIT, aupimo, localise
from snf_models.evaluation.masks import pair_masks

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


def planted(normal: int, strange: int, side: int, levels: int | None, seed: int = 0) -> tuple[Maps, Maps, Masks]:
    """Random maps, with one or two squares in each anomalous one whose values tend to be larger."""
    generator = np.random.default_rng(seed)
    maps = generator.normal(size=(normal + strange, side, side))
    masks = np.zeros((strange, side, side), dtype=bool)
    for index, mask in enumerate(masks):
        for top, left in generator.integers(0, side - 5, (1 + index % 2, 2)):
            mask[top : top + 3 + index % 3, left : left + 3] = True
    maps[normal:] += 1.5 * masks
    if levels is not None:  # equal values
        maps = np.round(maps * levels) / levels
    values = maps.astype(np.float32)
    return list(values[:normal]), list(values[normal:]), list(masks)


def defects_of(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The defects of a mask, filled one by one from their pixels."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        todo, part = [left.pop()], np.zeros_like(mask)
        while todo:
            row, column = todo.pop()
            part[row, column] = True
            for near in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
        found.append(part)
    return found


def area(x: list[float], y: list[float], limit: float) -> float:
    """The area under straight lines between points, up to a limit of x."""
    total = 0.0
    for (x0, y0), (x1, y1) in zip(zip(x, y, strict=True), zip(x[1:], y[1:], strict=True), strict=False):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > x0 else y1
        total += (end - x0) * (y0 + y_end) / 2
    return total


@pytest.mark.parametrize("levels", [None, 2])
def test_auroc_and_aupro_are_those_of_all_thresholds(levels: int | None) -> None:
    normal, maps, masks = planted(4, 5, 12, levels)
    found = localise(normal, maps, masks)
    sound = np.concatenate([*(one.ravel() for one in normal), *(m[~k] for m, k in zip(maps, masks, strict=True))])
    defects = [of_image[part] for of_image, mask in zip(maps, masks, strict=True) for part in defects_of(mask)]
    pixels = np.concatenate([m[k] for m, k in zip(maps, masks, strict=True)])
    thresholds = sorted({float(value) for value in np.concatenate([sound, pixels])}, reverse=True)
    rates = [0.0, *(float((sound >= limit).mean()) for limit in thresholds)]
    overlaps = [0.0, *(float(np.mean([(values >= limit).mean() for values in defects])) for limit in thresholds)]
    shares = [0.0, *(float((pixels >= limit).mean()) for limit in thresholds)]
    assert found.pixel_auroc == pytest.approx(area(rates, shares, 1.0), abs=1e-12)
    assert found.aupro == pytest.approx(area(rates, overlaps, PRO_LIMIT) / PRO_LIMIT, abs=1e-12)
    assert found.aupimo is None, "576 pixels have no rate of 1e-5"


@pytest.mark.parametrize("levels", [None, 3])
def test_aupimo_is_that_of_all_thresholds(levels: int | None) -> None:
    normal, maps, masks = planted(4, 5, 12, levels, seed=1)
    low, high = 0.01, 0.2
    found = aupimo(normal, maps, masks, (low, high))
    assert found is not None
    sound = np.concatenate([one.ravel() for one in normal])
    for result, of_image, mask in zip(found, maps, masks, strict=True):
        inside = of_image[mask]
        thresholds = sorted({float(value) for value in np.concatenate([sound, inside])}, reverse=True)
        points = [(float((sound >= limit).mean()), float((inside >= limit).mean())) for limit in thresholds]
        points = [point for point in points if point[0] > 0]
        # Fine steps of the logarithm, each with the overlap on the straight line between its neighbours.
        steps = np.linspace(math.log(low), math.log(high), 200_001)
        middle = (steps[1:] + steps[:-1]) / 2
        rates, shares = np.array(points).T
        assert float(np.interp(middle, np.log(rates), shares).mean()) == pytest.approx(float(result), abs=2e-4)
    assert aupimo(normal, maps, masks) is None
    assert PIMO_RANGE == (1e-5, 1e-4)


def test_perfect_and_useless_maps() -> None:
    mask = np.zeros((400, 400), dtype=bool)
    mask[10:20, 10:30] = True
    normal = [np.random.default_rng(0).random((400, 400)).astype(np.float32)]
    perfect = localise(normal, [normal[0] + 2 * mask], [mask])
    assert (perfect.pixel_auroc, perfect.aupro) == pytest.approx((1.0, 1.0))
    assert perfect.aupimo is not None
    assert perfect.aupimo.tolist() == pytest.approx([1.0])
    useless = localise(normal, [normal[0] - 2 * mask], [mask])
    assert (useless.pixel_auroc, useless.aupro) == (0.0, 0.0)
    assert useless.aupimo is not None
    assert useless.aupimo.tolist() == [0.0]
    with pytest.raises(ValueError, match="pixels of defects"):
        localise(normal, normal, [np.zeros_like(mask)])


def test_masks_pair_by_name_and_innermost_folder() -> None:
    images = ["test/good/000.png", "test/hole/000.png", "test/hole/001.png", "test/cut/000.png", "test/cut/004.png"]
    masks = ["truth/hole/000_mask.png", "truth/hole/001_mask.png", "truth/cut/000_mask.png", "truth/cut/009_mask.png"]
    pairs = pair_masks(images, masks)
    assert pairs.masks == {1: masks[0], 2: masks[1], 3: masks[2]}
    assert pairs.unpaired == (images[0], images[4])
    assert pairs.unused == (masks[3],)
    # Without folders the name alone decides, whatever its ending.
    assert pair_masks(["a.jpg", "b.png"], ["b.bmp", "a_mask.png"]).masks == {0: "a_mask.png", 1: "b.bmp"}


def test_what_is_not_unique_is_no_pair() -> None:
    # Two masks for an image, and two images for a mask.
    assert pair_masks(["a.png"], ["x/a.png", "y/a.png"]).masks == {}
    twice = pair_masks(["x/a.png", "y/a.png"], ["a.png"])
    assert (twice.masks, twice.unpaired, twice.unused) == ({}, ("x/a.png", "y/a.png"), ("a.png",))
    # The image with the same folder wins.
    assert pair_masks(["good/a.png", "hole/a.png"], ["hole/a.png"]).masks == {1: "hole/a.png"}
