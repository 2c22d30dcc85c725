"""Heat maps: the contribution of each pixel to the log-likelihood, compared with reference images, and its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from models.anomaly.calibration import MapReference
from models.images.codec import encode_png
from models.scoring.feature_density import FeaturePass, spread

Array = NDArray[np.float64]

OVERLAY_SIDE = 256
"""Pixels of the longer side up to which small images are enlarged, by a whole number."""
SMOOTHING = 0.75
"""Standard deviation in pixels of the filter that hides dequantisation noise."""
MAX_MAP_PIXELS = 2**20
"""Largest number of pixels of the maps and the picture of an image of several tiles."""
FULL_COLOUR = 4.0
"""Standard deviations at which a colour reaches its full strength."""
LESS_LIKELY, MORE_LIKELY = (214, 39, 40), (31, 119, 180)


@dataclass(frozen=True)
class PixelMaps:
    """Heat maps of one image: log-likelihood at each pixel, its z-score against normal images, and gradient norms.

    All maps are ``(H, W)``, or for a large image of several tiles ``(H / scale, W / scale)``, rounded down.

    Attributes:
        nats: The contribution to the log-likelihood; the sum over the pixels is the log-likelihood at the first draw.
        z: The same in standard deviations from the mean of the reference images; negative = less likely than usual.
        gradients: The gradient norm ||d log p / dy||, where a backward pass was made.
        scale: Pixels of the image along each side of a pixel of the maps.
    """

    nats: Array
    z: Array
    gradients: Array | None = None
    scale: int = 1


def tile_maps(found: FeaturePass, reference: MapReference) -> list[PixelMaps]:
    """Return the heat maps of images of several tiles, which have at most ``MAX_MAP_PIXELS`` pixels.

    The contributions of places are summed over the tiles that overlap there. Their z-scores are those of the tile whose
    centre is nearest.

    Args:
        found: The result for the images.
        reference: Mean and standard deviation at each place of the tiles of normal images.
    """
    assert found.features.plans is not None
    nats = found.compared_maps()
    z = standardise(nats, reference)
    maps = []
    of_images = zip(found.features.plans, found.features.tiles, found.terms().sum((1, 2)).tolist(), strict=True)
    for plan, (start, stop), log_likelihood in of_images:
        scale = math.ceil(math.sqrt(plan.height * plan.width / MAX_MAP_PIXELS))
        row, column = (np.arange(max(1, side // scale)) * scale // plan.stride for side in (plan.height, plan.width))
        of_places = plan.summed(nats[start:stop])
        of_pixels = spread(of_places[None], row, column, (log_likelihood - float(of_places.sum()),))[0]
        maps.append(PixelMaps(of_pixels, plan.merged(z[start:stop])[row[:, None], column], scale=scale))
    return maps


def standardise(nats: Array, reference: MapReference) -> Array:
    """Return log-likelihoods by pixel, ``(N, H, W)``, as z-scores relative to normal images at the same pixel.

    ``nats`` are the maps in nats. ``reference`` holds the mean and standard deviation at each pixel.
    """
    return (nats - reference.mean) / reference.deviation


def overlay(image: NDArray[np.uint8], z: Array, scale: int = 1) -> bytes:
    """Return a PNG of an image in grey, tinted by its heat map: red is less likely than usual, blue more likely.

    Args:
        image: The pixels, ``(C, H, W)``.
        z: The map in standard deviations, ``(H / scale, W / scale)``, rounded down.
        scale: Pixels of the image along each side of a pixel of the map; only one of them is shown.

    Returns:
        The content of a PNG file, as large as the map times a whole number.
    """
    height, width = z.shape
    grey = image[:3, scale // 2 :: scale, scale // 2 :: scale][:, :height, :width].mean(0)
    smooth = gaussian_filter(z, SMOOTHING)
    strength = np.clip(np.abs(smooth) / FULL_COLOUR, 0, 1)[..., None]
    colour = np.where(smooth[..., None] < 0, LESS_LIKELY, MORE_LIKELY)
    mixed = (1 - 0.8 * strength) * grey[..., None] + 0.8 * strength * colour
    pixels = np.rint(mixed).astype(np.uint8)
    return encode_png(enlarged(pixels).transpose(2, 0, 1))


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image, ``(H, W, C)``, enlarged by the largest whole factor for sides up to 256 pixels; never shrunk."""
    factor = max(1, OVERLAY_SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
