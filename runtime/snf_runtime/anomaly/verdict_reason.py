"""The reasons of an anomaly verdict, as numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from snf_runtime.anomaly.regions import AnomalousRegion, region_around
from snf_runtime.images.placement import Box, FilePlacement
from snf_runtime.scoring.grid import Region

WORDS = {
    # statistic: the text where it is higher than usual, and where it is lower
    "complexity": ("more complex than usual: more edges, texture or noise", "simpler than usual: smoother or emptier"),
    "pixel-term": (
        "unusual brightness or contrast: rarer grey values than usual",
        "unusual brightness or contrast: commoner grey values than usual",
    ),
    "volume": ("finer structure than usual at scale {scale}", "less structure than usual at scale {scale}"),
    "spread": ("details at scale {scale} are harder to predict", "details at scale {scale} are easier to predict"),
    "radius": ("stronger surprises at scale {scale}: noise or foreign texture", "too smooth at scale {scale}: blur"),
    "kurtosis": ("isolated outliers at scale {scale}", "unusually even residuals at scale {scale}"),
    "horizontal": ("repeats along rows at scale {scale}", "alternates along rows at scale {scale}"),
    "vertical": ("repeats along columns at scale {scale}", "alternates along columns at scale {scale}"),
    "unevenness": (
        "log-density varies more from place to place than usual",
        "log-density varies less from place to place than usual",
    ),
    "energy": (
        "details at scale {scale} in some colours or directions are stronger than usual",
        "details at scale {scale} in some colours or directions are weaker than usual: blur or rescaling",
    ),
    "falling": (
        "repeats along falling diagonals at scale {scale}",
        "alternates along falling diagonals at scale {scale}",
    ),
    "rising": ("repeats along rising diagonals at scale {scale}", "alternates along rising diagonals at scale {scale}"),
    "reconstruction": ("channels combine unusually at scale {scale}", "channels combine more simply at scale {scale}"),
}
FEATURE_WORDS = {
    "feature-place": "{where}: features unlike those of normal images at this place",
    "feature-area": "around {where}: features unlike those of normal images over a twentieth of the image",
    "feature-mean": "the mean of the features over the image is unlike that of normal images",
    "feature-image": "the features of the image as a whole are unlike those of normal images",
}
TILE_WORDS = {
    "feature-mean": "{where}: the mean of the features over this tile is unlike that of normal images",
    "feature-image": "{where}: the features of this tile as a whole are unlike those of normal images",
}
"""Reasons of pooled features in an image of several tiles, with the box of the tile."""
REGION_WORDS = {
    "feature-place": "{where}: features unlike those of normal images in this region",
    "feature-area": "around {where}: features unlike those of normal images over a twentieth of the image",
    "feature-mean": "the mean of the features over the image is unlike that of normal images, most of all in {where}",
    "feature-image": "the features of the image as a whole are unlike those of normal images, most of all in {where}",
}
"""Reasons of features where the anomaly map has a region, whose rows and columns ``{where}`` stands for."""
REGION = {True: "plainer than its surroundings suggest", False: "less likely than its surroundings suggest"}


@dataclass(frozen=True)
class VerdictReason:
    """One reason for an anomaly verdict, in numbers and in words.

    It names an unusual statistic or image region.

    Attributes:
        feature: The name of a statistic, or ``region``.
        z: Standard deviations from the value that the complexity of the image lets expect.
        share: The share of the evidence, between 0 and 1.
        words: The reason in words, where ``{where}`` stands for rows and columns of the box.
        box: Left, top, right and bottom of a region in pixels; None without a region.
    """

    feature: str
    z: float
    share: float
    words: str
    box: Box | None = None

    @property
    def text(self) -> str:
        """The reason in words, with the rows and columns of the image region concerned, if any."""
        if self.box is None:
            return self.words
        left, top, right, bottom = self.box
        return self.words.format(where=f"rows {top}-{bottom - 1}, columns {left}-{right - 1}")

    def in_file(self, placement: FilePlacement) -> VerdictReason:
        """Return this verdict reason with the box of its image region in pixel coordinates of the original file.

        The coordinates are those of the upright file.
        """
        return self if self.box is None else replace(self, box=placement.box(self.box))


def located(reason: VerdictReason, regions: Sequence[AnomalousRegion]) -> VerdictReason:
    """Return a reason for a verdict, with the box of the anomalous region to which the reason belongs.

    It is unchanged if no region belongs to it.

    Unusual features belong to the strongest region, also those of the image as a whole: a large defect shows in the
    mean of the features more than at any place. A region of pixels that are less likely than expected belongs to
    the strongest one that overlaps it. Other reasons stay as they are, also that of a whole tile with its box.

    Args:
        reason: The reason.
        regions: The regions of the image at the false-alarm rate of the verdict, the strongest first.
    """
    if not regions or (reason.feature in TILE_WORDS and reason.box is not None):
        return reason
    if reason.feature in REGION_WORDS:
        return replace(reason, box=regions[0].box, words=REGION_WORDS[reason.feature])
    region = None if reason.box is None or reason.z > 0 else region_around(reason.box, regions)
    return reason if region is None else replace(reason, box=region.box)


def statistic_reason(name: str, z: float, share: float) -> VerdictReason:
    """Return the ``VerdictReason`` that describes an unusual statistic of the whole image.

    The statistic is ``z`` standard deviations away from its expected value.
    """
    kind, _, scale = name.partition("-") if name not in WORDS else (name, "", "")
    higher, lower = WORDS[kind]
    return VerdictReason(name, z, share, (higher if z > 0 else lower).format(scale=scale))


def region_reason(region: Region, z: float, share: float, side: int, image: tuple[int, int]) -> VerdictReason:
    """Return the ``VerdictReason`` that describes an unusual region of the image.

    The region is more or less likely than the rest of the image suggests.

    Args:
        region: The region, in cells of the grid.
        z: Its deviation from the prediction of the rest of the image, in standard deviations.
        share: Its share of the evidence.
        side: The side of a cell in pixels.
        image: Height and width of the image in pixels.
    """
    height, width = image
    left, top = region.left * side, region.top * side
    right, bottom = min(region.right * side, width), min(region.bottom * side, height)
    return VerdictReason("region", z, share, f"{{where}}: {REGION[z > 0]}", (left, top, right, bottom))


@dataclass(frozen=True)
class PlaceGrid:
    """Grid of the image positions (places) at which a backbone network computes features.

    Attributes:
        places: Rows and columns of places.
        covered: Height and width that they cover in pixels, which may reach beyond the image.
        image: Height and width of the image in pixels.
    """

    places: tuple[int, int]
    covered: tuple[int, int]
    image: tuple[int, int]

    def box(self, place: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the box of image pixels that a place of the grid covers, given its row and column.

        The box is left, top, right and bottom in the image.
        """
        (top, bottom), (left, right) = (
            _pixels(*of_axis) for of_axis in zip(place, self.places, self.covered, strict=True)
        )
        return left, top, min(right, self.image[1]), min(bottom, self.image[0])


def feature_reason(
    name: str,
    surprise: float,
    share: float,
    place: tuple[int, int],
    grid: PlaceGrid,
    tile: tuple[int, int, int, int] | None = None,
) -> VerdictReason:
    """Return the ``VerdictReason`` that describes unusual backbone features of an image.

    Its ``z`` is -ln p of the statistic, in nats.

    Args:
        name: The most unusual statistic of the features.
        surprise: Its negative log p-value, in nats.
        share: Its share of the evidence.
        place: Row and column of the most unusual place.
        grid: The grid of the places.
        tile: Left, top, right and bottom of the tile with the most unusual features as a whole, for a statistic that is
            the largest of several tiles.
    """
    if name in TILE_WORDS and tile is None:
        return VerdictReason(name, surprise, share, FEATURE_WORDS[name])
    words = FEATURE_WORDS if tile is None else TILE_WORDS
    return VerdictReason(name, surprise, share, words[name], grid.box(place) if tile is None else tile)


def _pixels(place: int, places: int, side: int) -> tuple[int, int]:
    """Return the first pixel of a place, and the one after its last; at least one pixel."""
    first = place * side // places
    return first, max(first + 1, -(-(place + 1) * side // places))
