"""Metrics of how well anomaly maps show where a defect is: pixel AUROC, AUPRO and AUPIMO, all exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array: TypeAlias = NDArray[np.float64]
Map: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

TOUCHING = np.ones((3, 3), dtype=np.int8)
"""Pixels that touch at a side or a corner are connected."""
PRO_LIMIT = 0.3
"""Largest false-positive rate of AUPRO."""
PIMO_RANGE = (1e-5, 1e-4)
"""False-positive rates of AUPIMO."""
FOUND = 0.5
"""AUPIMO from which on the defect of an image counts as found."""


@dataclass(frozen=True)
class LocalisationMetrics:
    """Metrics of how well the anomaly maps of images agree with masks that mark the true defects.

    Attributes:
        pixel_auroc: P(defect pixel > other pixel) + P(equal) / 2, over the pixels of all images.
        aupro: Mean share of each defect that is found, over false-positive rates from 0 to 0.3, divided by 0.3.
        aupimo: The area for each image with a defect, ``(images,)``: the share of its defect that is found, over the
            logarithm of false-positive rates from 1e-5 to 1e-4 on normal images alone, divided by its range. None where
            the normal images have too few pixels for such rates.
    """

    pixel_auroc: float
    aupro: float
    aupimo: Array | None


def localise(normal: Sequence[Map], maps: Sequence[Map], masks: Sequence[Mask]) -> LocalisationMetrics:
    """Return pixel AUROC, AUPRO and AUPIMO: metrics of how well anomaly maps agree with defect masks.

    Every value is a threshold, as in Bergmann et al. 2021 (AUPRO) and Bertoldo et al. 2024 (AUPIMO). Where defect
    pixels and others have equal values, curves are straight between thresholds, for AUPIMO over the logarithm of the
    false-positive rate.

    Args:
        normal: Maps of normal images, ``(H, W)`` each, larger = more anomalous.
        maps: Maps of images with defects.
        masks: Their masks, true for the pixels of a defect, in the same order.

    Raises:
        ValueError: There is no pixel of a defect, or no other one.
    """
    defect = np.concatenate([of_image[mask] for of_image, mask in zip(maps, masks, strict=True)])
    other = [of_image.ravel() for of_image in normal]
    other += [of_image[~mask] for of_image, mask in zip(maps, masks, strict=True)]
    sound = np.sort(np.concatenate(other))
    if not len(defect) or not len(sound):
        raise ValueError(f"expected pixels of defects and others, got {len(defect)} and {len(sound)}")
    rates = _rates(defect, sound)
    even = np.full(len(defect), 1 / len(defect))
    return LocalisationMetrics(
        pixel_auroc=_area(*rates, even, 1.0),
        aupro=_area(*rates, _defect_weights(masks), PRO_LIMIT) / PRO_LIMIT,
        aupimo=aupimo(normal, maps, masks),
    )


def aupimo(
    normal: Sequence[Map],
    maps: Sequence[Map],
    masks: Sequence[Mask],
    between: tuple[float, float] = PIMO_RANGE,
) -> Array | None:
    """Return the AUPIMO metric of each defective image: how well its anomaly map locates the defect.

    The array is ``(images,)``. Returns None if normal images have too few pixels.

    Args:
        normal: Maps of normal images, ``(H, W)`` each.
        maps: Maps of images with defects; those with an empty mask are left out.
        masks: Their masks.
        between: The smallest and the largest false-positive rate.
    """
    pixels = sum(of_image.size for of_image in normal)
    if pixels * between[0] * (1 + 1e-9) < 1:
        return None
    sound = np.sort(np.concatenate([of_image.ravel() for of_image in normal]))
    low, high = (math.log(rate) for rate in between)
    areas = []
    for of_image, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        with np.errstate(divide="ignore"):
            above, reached = (np.log(rate) for rate in _rates(of_image[mask], sound))
        areas.append(float(_ramp_areas(above, reached, low, high).mean()) / (high - low))
    return np.array(areas)


def _rates(values: Map, sound: Map) -> tuple[Array, Array]:
    """Return the shares of sound pixels that are above each value, and of those that are at least as large.

    ``sound`` are the values of sound pixels, sorted.
    """
    above = len(sound) - np.searchsorted(sound, values, side="right")
    reached = len(sound) - np.searchsorted(sound, values, side="left")
    return above / len(sound), reached / len(sound)


def _area(above: Array, reached: Array, weights: Array, limit: float) -> float:
    """Return the area under a ROC curve, from the false-positive rate 0 to ``limit``.

    Each defect pixel adds its weight to the true-positive rate, evenly between two false-positive rates.

    Args:
        above: The share of sound pixels above each defect pixel.
        reached: The share of those that are at least as large.
        weights: The weights of the defect pixels; their sum is 1.
        limit: The largest false-positive rate.
    """
    return float(weights @ _ramp_areas(above, reached, 0.0, limit))


def _ramp_areas(first: Array, last: Array, low: float, high: float) -> Array:
    """Return the integrals from ``low`` to ``high`` of ramps that rise from 0 at ``first`` to 1 at ``last``.

    A ramp of no width is a step, and one that begins at minus infinity is 1 everywhere.
    """
    after = high - np.clip(last, low, high)
    start, end = np.clip(first, low, high), np.clip(last, low, high)
    with np.errstate(invalid="ignore", divide="ignore"):
        width = last - first
        during = ((end - first) ** 2 - (start - first) ** 2) / (2 * width)
    during = np.where(np.isneginf(first), end - low, np.where(width > 0, during, 0.0))
    areas: Array = after + during
    return areas


def _defect_weights(masks: Sequence[Mask]) -> Array:
    """Return the weight of each defect pixel, image by image: all defects count alike, and all pixels of a defect."""
    shares, defects = [], 0
    for mask in masks:
        labels, count = ndimage.label(mask, TOUCHING)
        inside = labels[mask]
        shares.append(1 / np.bincount(inside, minlength=count + 1)[inside])
        defects += count
    return np.concatenate(shares) / defects
