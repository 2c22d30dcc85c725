"""Rendering of heat maps: grey images, coloured where they are less or more likely than usual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from snf_runtime.anomaly.anomaly_map import of_pixels
from snf_runtime.images.codec import encode_png

Array = NDArray[np.float64]

OVERLAY_SIDE = 256
"""Pixels of the longer side up to which small images are enlarged, by a whole number."""
FULL_COLOUR = 4.0
"""Standard deviations at which a colour reaches its full strength."""
LESS_LIKELY, MORE_LIKELY = (214, 39, 40), (31, 119, 180)
OUTLINE = (255, 210, 0)
"""Colour of the outlines of regions."""
OUTLINE_SHARE = 100
"""The longer side of a picture, as a multiple of the width of an outline."""


def overlay(image: NDArray[np.uint8], z: Array, above: NDArray[np.bool_] | None = None, scale: int = 1) -> bytes:
    """Return the bytes of a PNG that shows an image in grey, coloured by its likelihood heat map.

    Red is less likely than usual, blue more likely.

    Args:
        image: The pixels, ``(C, H, W)``.
        z: The map in standard deviations, ``(H / scale, W / scale)``, rounded down.
        above: Where the anomaly map is at or above its threshold, in the shape of ``z``: these regions are outlined in
            yellow.
        scale: Pixels of the image along each side of a pixel of the map; only one of them is shown.

    Returns:
        The content of a PNG file, as large as the map times a whole number.
    """
    height, width = z.shape
    grey = image[:3, scale // 2 :: scale, scale // 2 :: scale][:, :height, :width].mean(0)
    smooth = -of_pixels(z)
    strength = np.clip(np.abs(smooth) / FULL_COLOUR, 0, 1)[..., None]
    colour = np.where(smooth[..., None] < 0, LESS_LIKELY, MORE_LIKELY)
    mixed = (1 - 0.8 * strength) * grey[..., None] + 0.8 * strength * colour
    pixels = np.rint(mixed).astype(np.uint8)
    picture = enlarged(pixels)
    if above is not None and above.any():
        inside = enlarged(above.astype(np.uint8)[..., None].repeat(3, 2))[..., 0] > 0
        width = max(1, max(inside.shape) // OUTLINE_SHARE)
        picture = np.where((inside & ~binary_erosion(inside, iterations=width))[..., None], OUTLINE, picture)
    return encode_png(picture.astype(np.uint8).transpose(2, 0, 1))


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a small image enlarged by an integer factor, to at most 256 pixels a side.

    The image is ``(H, W, C)``. The factor is as large as possible, and a larger image keeps its size.
    """
    factor = max(1, OVERLAY_SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
