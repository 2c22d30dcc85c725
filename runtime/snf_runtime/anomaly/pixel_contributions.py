"""Heat maps: the contribution of each pixel to the log-likelihood, compared with reference images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.calibration import MapReference
from snf_runtime.anomaly.regions import MapRegions, find_regions, find_regions_of_tiles
from snf_runtime.images.tiles import TilePlan
from snf_runtime.scoring.feature_density import FeaturePass, spread

Array = NDArray[np.float64]

MAX_MAP_PIXELS = 2**20
"""Largest number of pixels of the maps and the picture of an image of several tiles."""


@dataclass(frozen=True)
class PixelMaps:
    """Heat maps of one image, which show pixel by pixel how likely and how anomalous it is.

    They show the log-likelihood at each pixel, its z-score against normal images, and the anomaly map.

    All maps are ``(H, W)``, or for a large image of several tiles ``(H / scale, W / scale)``, rounded down.

    Attributes:
        nats: The contribution to the log-likelihood; the sum over the pixels is the log-likelihood at the first draw.
        z: The same in standard deviations from the mean of the reference images; negative = less likely than usual.
        anomaly: The anomaly map, larger = more anomalous, whose regions are compared with a threshold.
        scale: Pixels of the image along each side of a pixel of the maps.
        tiles: The tiles of an image of several tiles, with its anomaly map at places; None for other images.
    """

    nats: Array
    z: Array
    anomaly: Array
    scale: int = 1
    tiles: tuple[TilePlan, Array] | None = None

    @property
    def channels(self) -> dict[str, Array]:
        """The maps by name, in the channel order of response arrays."""
        return {"nats": self.nats, "z": self.z, "anomaly": self.anomaly}

    def regions(self, threshold: float) -> MapRegions:
        """Return the anomalous regions of the image, in its pixels."""
        if self.tiles is None:
            return find_regions(self.anomaly, threshold)
        plan, places = self.tiles
        return find_regions_of_tiles(places, plan, threshold)


def tile_maps(density_pass: FeaturePass, reference: MapReference, anomaly: Sequence[Array]) -> list[PixelMaps]:
    """Return maps of tiled images: overlapping contributions add up, z-scores are those of the nearest tile."""
    assert density_pass.features.plans is not None
    nats = density_pass.compared_maps()
    z = standardise(nats, reference)
    maps = []
    log_likelihoods = density_pass.terms().sum((1, 2)).tolist()
    of_images = zip(density_pass.features.plans, density_pass.features.tiles, log_likelihoods, anomaly, strict=True)
    for plan, (start, stop), log_likelihood, places in of_images:
        scale = math.ceil(math.sqrt(plan.height * plan.width / MAX_MAP_PIXELS))
        row, column = (np.arange(max(1, side // scale)) * scale // plan.stride for side in (plan.height, plan.width))
        of_places = plan.summed(nats[start:stop])
        summed = spread(of_places[None], row, column, (log_likelihood - float(of_places.sum()),))[0]
        at = row[:, None], column
        maps.append(PixelMaps(summed, plan.merged(z[start:stop])[at], places[at], scale=scale, tiles=(plan, places)))
    return maps


def standardise(nats: Array, reference: MapReference) -> Array:
    """Return log-likelihood maps in nats as z-scores at each pixel, or at each place of a tile."""
    return (nats - reference.mean) / reference.deviation
