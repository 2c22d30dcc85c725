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
    result: NDArray[np.intp] = np.repeat(numbers, stops - starts)
    return result


def find_regions_of_tiles(places: NDArray[np.float64], plan: TilePlan, threshold: float) -> MapRegions:
    """Return the regions, in pixels, from the places alone: a map of all pixels may be larger than the image."""
    squares = FilePlacement((plan.width, plan.height), (plan.stride, plan.stride))
    return find_regions(places, threshold).in_file(squares)


def region_around(box: Box, regions: Iterable[AnomalousRegion]) -> AnomalousRegion | None:
    """Return the first of the sorted regions whose box overlaps ``box``, or None."""
    return next((region for region in regions if _overlap(region.box, box)), None)


def _overlap(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
