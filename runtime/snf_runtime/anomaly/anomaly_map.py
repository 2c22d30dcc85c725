"""Anomaly maps: one number for each pixel of an image, larger where the image is more anomalous."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

SMOOTHING = 0.75
"""Standard deviation in pixels; more hides fine defects (``python -m benchmarks.features localisation``)."""
REACH = round(4 * SMOOTHING)
"""Pixels of the filter on either side. Beyond the edge of a map it is mirrored."""
_OFFSETS = np.arange(-REACH, REACH + 1)
KERNEL = np.exp(-0.5 * np.square(_OFFSETS / SMOOTHING)) / np.exp(-0.5 * np.square(_OFFSETS / SMOOTHING)).sum()


def of_places(places: Array, image: tuple[int, int]) -> Array:
    """Interpolate nats at cell centres of a coarse grid bilinearly to pixels; outer values go on to the edge."""
    down, across = (_interpolation(*of_side) for of_side in zip(places.shape[-2:], image, strict=True))
    brought: Array = down @ places @ across.T
    return brought


def of_pixels(z: Array) -> Array:
    """Return minus the z-scores of the log-likelihood at each pixel, ``(H, W)`` or ``(N, H, W)``, smoothed."""
    smooth = -z
    for axis in (-2, -1) if z.size else ():
        length = smooth.shape[axis]
        sides = [(0, 0)] * smooth.ndim
        sides[axis] = (REACH, REACH)
        extended = np.pad(smooth, sides, mode="symmetric").swapaxes(axis, -1)
        smooth = np.zeros(smooth.shape)
        along = smooth.swapaxes(axis, -1)
        for start, weight in enumerate(KERNEL):  # the same order for every shape, so that the last digits agree
            along += weight * extended[..., start : start + length]
    return smooth


@lru_cache(maxsize=64)
def _interpolation(places: int, pixels: int) -> Array:
    """Return the weights ``(pixels, places)`` of linear interpolation along one side of an image; rows sum to 1."""
    position = np.clip((np.arange(pixels) + 0.5) * places / pixels - 0.5, 0, places - 1)
    weights: Array = np.maximum(1 - np.abs(position[:, None] - np.arange(places)), 0)
    weights.flags.writeable = False
    return weights
