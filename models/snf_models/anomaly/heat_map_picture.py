"""Rendering of heat maps: grey images, coloured where the anomaly map passes its threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from snf_runtime.images.codec import encode_png

Array = NDArray[np.float64]

OVERLAY_SIDE = 256  # pixels of the longer side up to which small images are enlarged, by a whole number
FULL_COLOUR = 3.0  # multiple of the threshold at which a colour reaches its full strength
OPACITY = 0.55  # share of the colour in a picture, so that the image stays visible below it
LESS_LIKELY = np.array([(255, 190, 0), (214, 20, 40)])
"""Colours at the threshold and at its multiple, where the image is less likely than usual."""
MORE_LIKELY = np.array([(120, 200, 255), (20, 70, 200)])  # the same where the image is as much more likely than usual
OUTLINE = (255, 210, 0)  # colour of the outlines of regions
OUTLINE_SHARE = 100  # the longer side of a picture, as a multiple of the width of an outline


def colours(anomaly: Array, threshold: float | None) -> NDArray[np.uint8]:
    """Return RGBA ``(H * k, W * k, 4)``: amber at the threshold, red at thrice, blue if likely, yellow outlines."""
    pixels = np.zeros((*anomaly.shape, 4), np.uint8)
    if threshold is None:
        return enlarged(pixels)
    above = anomaly >= threshold
    excess = np.abs(anomaly) / max(threshold, np.finfo(float).tiny) - 1
    strength = np.clip(excess / (FULL_COLOUR - 1), 0, 1)[..., None]
    for where, (first, last) in ((anomaly <= -threshold, MORE_LIKELY), (above, LESS_LIKELY)):
        mixed = np.rint((1 - strength) * first + strength * last)
        pixels[where] = np.concatenate([mixed, np.full_like(strength, round(255 * OPACITY))], axis=2)[where]
    picture = enlarged(pixels).copy()
    inside = enlarged(above.astype(np.uint8)[..., None].repeat(3, 2))[..., 0] > 0
    width = max(1, max(inside.shape) // OUTLINE_SHARE)
    picture[inside & ~binary_erosion(inside, iterations=width)] = (*OUTLINE, 255)
    return picture


def overlay(image: NDArray[np.uint8], anomaly: Array, threshold: float | None, scale: int = 1) -> bytes:
    """Return a PNG of a grey image ``(C, H, W)`` below the colours of its map, reduced by ``scale``."""
    height, width = anomaly.shape
    grey = image[:3, scale // 2 :: scale, scale // 2 :: scale][:, :height, :width].mean(0)
    below = enlarged(np.rint(grey).astype(np.uint8)[..., None].repeat(3, 2))
    layer = colours(anomaly, threshold)
    opacity = layer[..., 3:] / 255
    picture = np.rint((1 - opacity) * below + opacity * layer[..., :3]).astype(np.uint8)
    return encode_png(picture.transpose(2, 0, 1))


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge a small image ``(H, W, C)`` by the largest whole number to at most 256 pixels a side."""
    factor = max(1, OVERLAY_SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
