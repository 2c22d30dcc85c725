"""Heat maps: the contribution of each pixel to the log-likelihood, compared with reference images, and its picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from snf_runtime.anomaly.anomaly_map import of_pixels
from snf_runtime.anomaly.calibration import MapReference
from snf_runtime.anomaly.regions import MapRegions, find_regions, find_regions_of_tiles
from snf_runtime.images.codec import encode_png
from snf_runtime.images.tiles import TilePlan
from snf_runtime.scoring.feature_density import FeaturePass, spread

Array = NDArray[np.float64]

OVERLAY_SIDE = 256
"""Pixels of the longer side up to which small images are enlarged, by a whole number."""
MAX_MAP_PIXELS = 2**20
"""Largest number of pixels of the maps and the picture of an image of several tiles."""
FULL_COLOUR = 4.0
"""Standard deviations at which a colour reaches its full strength."""
LESS_LIKELY, MORE_LIKELY = (214, 39, 40), (31, 119, 180)
OUTLINE = (255, 210, 0)
"""Colour of the outlines of regions."""
OUTLINE_SHARE = 100
"""The longer side of a picture, as a multiple of the width of an outline."""


@dataclass(frozen=True)
class PixelMaps:
    """Heat maps of one image: log-likelihood at each pixel, its z-score against normal images, and gradient norms.

    All maps are ``(H, W)``, or for a large image of several tiles ``(H / scale, W / scale)``, rounded down.

    Attributes:
        nats: The contribution to the log-likelihood; the sum over the pixels is the log-likelihood at the first draw.
        z: The same in standard deviations from the mean of the reference images; negative = less likely than usual.
        anomaly: The anomaly map, larger = more anomalous, whose regions are compared with a threshold.
        gradients: The gradient norm ||d log p / dy||, where a backward pass was made.
        scale: Pixels of the image along each side of a pixel of the maps.
        tiles: The tiles of an image of several tiles, with its anomaly map at places; None for other images.
    """

    nats: Array
    z: Array
    anomaly: Array
    gradients: Array | None = None
    scale: int = 1
    tiles: tuple[TilePlan, Array] | None = None

    @property
    def channels(self) -> dict[str, Array]:
        """The maps by their names, in the order in which they are handed out."""
        maps = {"nats": self.nats, "z": self.z, "anomaly": self.anomaly}
        return maps if self.gradients is None else {**maps, "gradients": self.gradients}

    def regions(self, threshold: float) -> MapRegions:
        """Return the regions of the anomaly map at or above a threshold, in pixels of the image."""
        if self.tiles is None:
            return find_regions(self.anomaly, threshold)
        plan, places = self.tiles
        return find_regions_of_tiles(places, plan, threshold)


def tile_maps(found: FeaturePass, reference: MapReference, anomaly: Sequence[Array]) -> list[PixelMaps]:
    """Return the heat maps of images of several tiles, which have at most ``MAX_MAP_PIXELS`` pixels.

    The contributions of places are summed over the tiles that overlap there. Their z-scores are those of the tile whose
    centre is nearest.

    Args:
        found: The result for the images.
        reference: Mean and standard deviation at each place of the tiles of normal images.
        anomaly: The anomaly map of each image at its places, ``(rows, columns)`` in nats.
    """
    assert found.features.plans is not None
    nats = found.compared_maps()
    z = standardise(nats, reference)
    maps = []
    log_likelihoods = found.terms().sum((1, 2)).tolist()
    of_images = zip(found.features.plans, found.features.tiles, log_likelihoods, anomaly, strict=True)
    for plan, (start, stop), log_likelihood, places in of_images:
        scale = math.ceil(math.sqrt(plan.height * plan.width / MAX_MAP_PIXELS))
        row, column = (np.arange(max(1, side // scale)) * scale // plan.stride for side in (plan.height, plan.width))
        of_places = plan.summed(nats[start:stop])
        summed = spread(of_places[None], row, column, (log_likelihood - float(of_places.sum()),))[0]
        at = row[:, None], column
        maps.append(PixelMaps(summed, plan.merged(z[start:stop])[at], places[at], scale=scale, tiles=(plan, places)))
    return maps


def standardise(nats: Array, reference: MapReference) -> Array:
    """Return log-likelihoods by pixel, ``(N, H, W)``, as z-scores relative to normal images at the same pixel.

    ``nats`` are the maps in nats. ``reference`` holds the mean and standard deviation at each pixel.
    """
    return (nats - reference.mean) / reference.deviation


def overlay(image: NDArray[np.uint8], z: Array, above: NDArray[np.bool_] | None = None, scale: int = 1) -> bytes:
    """Return a PNG of an image in grey, tinted by its heat map: red is less likely than usual, blue more likely.

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
    """Return an image, ``(H, W, C)``, enlarged by the largest whole factor for sides up to 256 pixels; never shrunk."""
    factor = max(1, OVERLAY_SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
