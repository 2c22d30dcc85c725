"""Search for regions of an image where its anomaly map is at or above a threshold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.placement import Box, FilePlacement
from snf_runtime.images.tiles import TilePlan

MAX_REGIONS = 20
"""Most regions of an image that are described, the strongest ones."""


@dataclass(frozen=True)
class AnomalousRegion:
    """A connected region of an image in which the anomaly map is at or above a threshold.

    Attributes:
        box: Left, top, right and bottom in pixels; it covers the whole region.
        area: The number of its pixels.
        peak: The largest value of the map in it.
        place: Column and row of that value.
    """

    box: Box
    area: int
    peak: float
    place: tuple[int, int]

    def in_file(self, placement: FilePlacement) -> AnomalousRegion:
        """Return the region with its coordinates and its area in pixels of the original file.

        The coordinates are those of the upright file.
        """
        box = placement.box(self.box)
        return replace(self, box=box, area=placement.area(self.area, box), place=placement.place(self.place))


@dataclass(frozen=True)
class MapRegions:
    """The anomalous regions of one image, at one threshold of the anomaly map.

    The threshold is that of a false-alarm rate.

    Attributes:
        threshold: The value from which on a pixel belongs to a region.
        regions: The strongest regions, the highest peak first.
        count: The number of all regions.
    """

    threshold: float
    regions: tuple[AnomalousRegion, ...]
    count: int

    def in_file(self, placement: FilePlacement) -> MapRegions:
        """Return the regions with their coordinates and areas in pixels of the original file.

        The coordinates are those of the upright file.
        """
        return replace(self, regions=tuple(region.in_file(placement) for region in self.regions))


def find_regions(anomaly: NDArray[np.float64], threshold: float) -> MapRegions:
    """Return the connected regions of an image where its anomaly map is at or above a threshold.

    Args:
        anomaly: The map, ``(H, W)``.
        threshold: The threshold, in units of the map.
    """
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
    """Label the connected regions of a mask, and return the region number of each true pixel as a flat array.

    Pixels that touch at a side or a corner belong to the same region.

    Regions are numbered from 0 by their first pixels.

    Args:
        mask: The mask, ``(H, W)``.

    Returns:
        The numbers, one for each true pixel, by rows.

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
    result: NDArray[np.intp] = np.repeat(numbers, stops - starts)
    return result


def find_regions_of_tiles(places: NDArray[np.float64], plan: TilePlan, threshold: float) -> MapRegions:
    """Return the anomalous regions of an image that is scored in tiles, found in its coarse anomaly map.

    The anomaly map has one value for each place, a square of pixels. Regions are in pixels.

    A map of all pixels would take more memory than the image.

    Args:
        places: The anomaly map at the places of the image, ``(rows, columns)``.
        plan: The tiles of the image.
        threshold: The threshold, in units of the map.
    """
    squares = FilePlacement((plan.width, plan.height), (plan.stride, plan.stride))
    return find_regions(places, threshold).in_file(squares)


def region_around(box: Box, regions: Iterable[AnomalousRegion]) -> AnomalousRegion | None:
    """Return the strongest anomalous region whose box overlaps ``box``, or None if there is none.

    ``regions`` are sorted, the strongest first.
    """
    return next((region for region in regions if _overlap(region.box, box)), None)


def _overlap(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
