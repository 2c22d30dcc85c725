"""Regions of an image where its anomaly map exceeds what normal images reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from snf_runtime.images.placement import Box, FilePlacement
from snf_runtime.images.tiles import TilePlan

MAX_REGIONS = 20
"""Most regions of an image that are described, the strongest ones."""
TOUCHING = np.ones((3, 3), dtype=np.int8)
"""Pixels that touch at a side or a corner are connected."""


@dataclass(frozen=True)
class AnomalousRegion:
    """A connected region of an image where the anomaly map is at or above the threshold.

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
        """Return the region in pixels of the upright file."""
        box = placement.box(self.box)
        return replace(self, box=box, area=placement.area(self.area, box), place=placement.place(self.place))


@dataclass(frozen=True)
class MapRegions:
    """The regions of one image at one false-alarm rate.

    Attributes:
        threshold: The value from which on a pixel belongs to a region.
        regions: The strongest regions, the highest peak first.
        count: The number of all regions.
    """

    threshold: float
    regions: tuple[AnomalousRegion, ...]
    count: int

    def in_file(self, placement: FilePlacement) -> MapRegions:
        """Return the regions in pixels of the upright file."""
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
    labels, count = ndimage.label(above, TOUCHING)
    numbers = np.arange(1, count + 1)
    peaks = np.asarray(ndimage.maximum(anomaly, labels, numbers))
    strongest = np.argsort(-peaks, kind="stable")[:MAX_REGIONS]
    places = ndimage.maximum_position(anomaly, labels, numbers[strongest])
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    regions = []
    for index, (row, column) in zip(strongest.tolist(), places, strict=True):
        rows, columns = boxes[index]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        regions.append(AnomalousRegion(box, int(areas[index]), float(peaks[index]), (int(column), int(row))))
    return MapRegions(threshold, tuple(regions), count)


def find_regions_of_tiles(places: NDArray[np.float64], plan: TilePlan, threshold: float) -> MapRegions:
    """Return the regions of an image of several tiles, in its pixels; every place is a square of them.

    A map of all pixels would take more memory than the image.

    Args:
        places: The anomaly map at the places of the image, ``(rows, columns)``.
        plan: The tiles of the image.
        threshold: The threshold, in units of the map.
    """
    squares = FilePlacement((plan.width, plan.height), (plan.stride, plan.stride))
    return find_regions(places, threshold).in_file(squares)


def region_around(box: Box, regions: Iterable[AnomalousRegion]) -> AnomalousRegion | None:
    """Return the strongest of some regions, the strongest first, whose box overlaps another box; None without any."""
    return next((region for region in regions if _overlap(region.box, box)), None)


def _overlap(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
