"""Where in an image its log-likelihood comes from, and where that is unusual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from models.anomaly.calibration import MapReference
from models.images.codec import encode_png

Array = NDArray[np.float64]

OVERLAY_SIDE = 256
"""Small images are enlarged by a whole number so that their longer side has about so many pixels."""
SMOOTHING = 0.75
"""Pixels: the noise of dequantisation is not for looking at."""
FULL_COLOUR = 4.0
"""Standard deviations at which the colour is at its strongest."""
LESS_LIKELY, MORE_LIKELY = (214, 39, 40), (31, 119, 180)


@dataclass(frozen=True)
class PixelMaps:
    """``nats``: the exact additive map, ``(H, W)``, whose sum is the log-likelihood at the first draw.

    ``z``: the same against the reference images, (M - mean) / deviation at each pixel; below 0: less likely than usual.
    ``gradients``: ||d log p / dy|| at each pixel, where a backward pass was made.
    """

    nats: Array
    z: Array
    gradients: Array | None = None


def standardise(nats: Array, reference: MapReference) -> Array:
    """Return maps ``(N, H, W)`` in deviations from the reference's mean at each pixel."""
    return (nats - reference.mean) / reference.deviation


def overlay(image: NDArray[np.uint8], z: Array) -> bytes:
    """Return a PNG of the image, ``(C, H, W)``, in grey, under its map: red is less likely than usual, blue is more.

    Exactly as large as the image times a whole number.
    """
    grey = image[:3].mean(0)
    smooth = gaussian_filter(z, SMOOTHING)
    strength = np.clip(np.abs(smooth) / FULL_COLOUR, 0, 1)[..., None]
    colour = np.where(smooth[..., None] < 0, LESS_LIKELY, MORE_LIKELY)
    mixed = (1 - 0.8 * strength) * grey[..., None] + 0.8 * strength * colour
    pixels = np.rint(mixed).astype(np.uint8)
    return encode_png(enlarged(pixels).transpose(2, 0, 1))


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels ``(H, W, C)`` repeated so often that they can be looked at."""
    factor = max(1, OVERLAY_SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
