"""Anomaly maps, heat maps and their regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import TilePlan
from snf_runtime.images.preprocessing import Box, FilePlacement
from snf_runtime.scoring.feature_density import FeaturePass, spread

Array: TypeAlias = NDArray[np.float64]

SMOOTHING = 0.75  # standard deviation in pixels; more hides fine defects
REACH = round(4 * SMOOTHING)  # pixels of the filter on either side. Beyond the edge of a map it is mirrored.
_OFFSETS = np.arange(-REACH, REACH + 1)
KERNEL = np.exp(-0.5 * np.square(_OFFSETS / SMOOTHING)) / np.exp(-0.5 * np.square(_OFFSETS / SMOOTHING)).sum()


def of_places(places: Array, image: tuple[int, int]) -> Array:
    """Interpolate nats at cell centres of a coarse grid bilinearly to pixels; outer values go on to the edge."""
    down, across = (_interpolation(*of_side) for of_side in zip(places.shape[-2:], image, strict=True))
    return down @ places @ across.T


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


MAX_REGIONS = 20  # most regions of an image that are described, the strongest ones


@dataclass(frozen=True)
class AnomalousRegion:
    """A connected region of an image in which the anomaly map is at or above a threshold."""

    box: Box  # pixels; covers the whole region
    area: int
    peak: float
    place: tuple[int, int]  # column and row of the peak

    def in_file(self, placement: FilePlacement) -> AnomalousRegion:
        """Return the region in pixels of the upright original file."""
        box = placement.box(self.box)
        return replace(self, box=box, area=placement.area(self.area, box), place=placement.place(self.place))


@dataclass(frozen=True)
class MapRegions:
    """The strongest anomalous regions of one image, the highest peak first, at one threshold of its anomaly map."""

    threshold: float
    regions: tuple[AnomalousRegion, ...]
    count: int  # of all regions

    def in_file(self, placement: FilePlacement) -> MapRegions:
        """Return the regions in pixels of the upright original file."""
        return replace(self, regions=tuple(region.in_file(placement) for region in self.regions))


def find_regions(anomaly: NDArray[np.float64], threshold: float) -> MapRegions:
    """Return the connected regions of an anomaly map ``(H, W)`` at or above a threshold."""
    above = anomaly >= threshold
    if not above.any():
        return MapRegions(threshold, (), 0)
    rows, columns = np.nonzero(above)
    of_pixel = connected(above)
    count = int(of_pixel.max()) + 1
    # By region, the largest value first, and of equal ones the first by rows.
    values = anomaly[rows, columns]
    order = np.lexsort((-values, of_pixel))
    peaks = order[np.searchsorted(of_pixel[order], np.arange(count))]
    boxes = np.array([(*above.shape[::-1], 0, 0)] * count).T
    np.minimum.at(boxes[0], of_pixel, columns)
    np.minimum.at(boxes[1], of_pixel, rows)
    np.maximum.at(boxes[2], of_pixel, columns + 1)
    np.maximum.at(boxes[3], of_pixel, rows + 1)
    areas = np.bincount(of_pixel)
    regions = []
    for index in np.argsort(-values[peaks], kind="stable")[:MAX_REGIONS].tolist():
        peak = peaks[index]
        left, top, right, bottom = boxes[:, index].tolist()
        place = int(columns[peak]), int(rows[peak])
        regions.append(AnomalousRegion((left, top, right, bottom), int(areas[index]), float(values[peak]), place))
    return MapRegions(threshold, tuple(regions), count)


def connected(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Label the 8-connected regions of a mask: the number of each true pixel, by rows, from 0 by their first pixels.

    >>> connected(np.array([[1, 0, 0, 1], [0, 1, 0, 0]], dtype=bool)).tolist()
    [0, 1, 0]
    """
    width = mask.shape[1] + 2
    # With a false pixel at both ends, rows follow each other, and no run of true pixels goes on in the next row.
    line = np.pad(mask, ((0, 0), (1, 1))).ravel().view(np.int8)
    steps = np.diff(line)
    starts, stops = np.flatnonzero(steps == 1) + 1, np.flatnonzero(steps == -1) + 1
    # A run touches those of the next row that begin no later than it stops, and stop no earlier than it begins.
    first = np.searchsorted(stops, starts + width, side="left")
    counts = np.maximum(np.searchsorted(starts, stops + width, side="right") - first, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    label = np.arange(len(starts))
    while True:
        smaller = np.minimum(label[above], label[below])
        joined = label.copy()
        for ends in (above, below):
            np.minimum.at(joined, label[ends], smaller)
        joined = joined[joined]
        if np.array_equal(joined, label):
            break
        label = joined
    numbers = np.unique(label, return_inverse=True)[1]
    return np.repeat(numbers, stops - starts)


def find_regions_of_tiles(places: NDArray[np.float64], plan: TilePlan, threshold: float) -> MapRegions:
    """Return the regions, in pixels, from the places alone: a map of all pixels may be larger than the image."""
    squares = FilePlacement((plan.width, plan.height), (plan.stride, plan.stride))
    return find_regions(places, threshold).in_file(squares)


def overlap(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


MAX_MAP_PIXELS = 2**20  # largest number of pixels of the maps and the picture of an image of several tiles


@dataclass(frozen=True)
class MapReference:
    """Mean and deviation of the log-likelihood over normal images at each pixel, or place of a tile, in nats."""

    mean: Array
    deviation: Array


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
