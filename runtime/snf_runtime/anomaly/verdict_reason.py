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
        """Return the reason with its box in pixels of the upright original file."""
        return self if self.box is None else replace(self, box=placement.box(self.box))


def located(reason: VerdictReason, regions: Sequence[AnomalousRegion]) -> VerdictReason:
    """Return a reason with the box of its region: of features the strongest, of pixels the first that overlaps."""
    if not regions or (reason.feature in TILE_WORDS and reason.box is not None):
        return reason
    if reason.feature in REGION_WORDS:
        return replace(reason, box=regions[0].box, words=REGION_WORDS[reason.feature])
    region = None if reason.box is None or reason.z > 0 else region_around(reason.box, regions)
    return reason if region is None else replace(reason, box=region.box)


def statistic_reason(name: str, z: float, share: float) -> VerdictReason:
    """Describe a statistic of the whole image that is ``z`` deviations from its expected value."""
    kind, _, scale = name.partition("-") if name not in WORDS else (name, "", "")
    higher, lower = WORDS[kind]
    return VerdictReason(name, z, share, (higher if z > 0 else lower).format(scale=scale))


def region_reason(region: Region, z: float, share: float, side: int, image: tuple[int, int]) -> VerdictReason:
    """Describe a region of cells with sides of ``side`` pixels that the rest of the image does not predict."""
    height, width = image
    left, top = region.left * side, region.top * side
    right, bottom = min(region.right * side, width), min(region.bottom * side, height)
    return VerdictReason("region", z, share, f"{{where}}: {REGION[z > 0]}", (left, top, right, bottom))


@dataclass(frozen=True)
class PlaceGrid:
    """Grid of the places at which a backbone computes features."""

    places: tuple[int, int]
    covered: tuple[int, int]  # height and width in pixels, may reach beyond the image
    image: tuple[int, int]

    def box(self, place: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom, within the image, of a place by its row and column."""
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
    """Describe unusual features; ``z`` is -ln p of the statistic in nats, ``tile`` the box of the strongest tile."""
    if name in TILE_WORDS and tile is None:
        return VerdictReason(name, surprise, share, FEATURE_WORDS[name])
    words = FEATURE_WORDS if tile is None else TILE_WORDS
    return VerdictReason(name, surprise, share, words[name], grid.box(place) if tile is None else tile)


def _pixels(place: int, places: int, side: int) -> tuple[int, int]:
    """Return the first pixel of a place, and the one after its last; at least one pixel."""
    first = place * side // places
    return first, max(first + 1, -(-(place + 1) * side // places))
