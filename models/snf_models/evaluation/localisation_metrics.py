"""Exact pixel AUROC, AUPRO (Bergmann et al. 2021) and AUPIMO (Bertoldo et al. 2024) of anomaly maps."""

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
    """How well anomaly maps agree with the masks of defects."""

    pixel_auroc: float  # over the pixels of all images
    aupro: float  # mean found share of each defect, false-positive rates from 0 to 0.3
    aupimo: Array | None  # of each image, ``(images,)``; None if normal images have too few pixels


def localise(normal: Sequence[Map], maps: Sequence[Map], masks: Sequence[Mask]) -> LocalisationMetrics:
    """Return the metrics of maps ``(H, W)``, larger for anomalies; raise ``ValueError`` without defect pixels."""
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
    """Return the AUPIMO of each image with a defect, or None if normal images have too few pixels."""
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
    """Return the shares of sorted sound pixels above each value, and of those that are at least as large."""
    above = len(sound) - np.searchsorted(sound, values, side="right")
    reached = len(sound) - np.searchsorted(sound, values, side="left")
    return above / len(sound), reached / len(sound)


def _area(above: Array, reached: Array, weights: Array, limit: float) -> float:
    """Return the area under a ROC curve up to ``limit``, to which each defect pixel adds an even ramp."""
    return float(weights @ _ramp_areas(above, reached, 0.0, limit))


def _ramp_areas(first: Array, last: Array, low: float, high: float) -> Array:
    """Integrate ramps from 0 at ``first`` to 1 at ``last``. One of no width is a step."""
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
