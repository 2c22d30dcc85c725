"""The white level of an image: how bright its brightest parts are, whatever it shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

QUANTILE = 0.99
LEVELS = 256


def white_levels(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the white level of each image: the smallest level that at least 99 % of its values do not exceed.

    It follows light and exposure, and varies less between images of a scene than their mean does.

    Args:
        images: Pixels, uint8 ``(C, H, W)`` each.

    Returns:
        A level of each image, ``(N,)``.

    >>> white_levels([np.arange(100, dtype=np.uint8).reshape(1, 10, 10)]).tolist()
    [98]
    """
    return np.array([_white_level(image) for image in images], dtype=np.uint8)


def _white_level(image: NDArray[np.uint8]) -> np.uint8:
    place = int(np.ceil(QUANTILE * image.size)) - 1
    level: np.uint8 = np.partition(image, place, axis=None)[place]
    return level
