"""The anomaly verdict on one image and its reasons, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.maps import AnomalousRegion, MapRegions, overlap
from snf_runtime.anomaly.statistics import EvidenceKind, FeatureGroup, Statistic
from snf_runtime.images.preprocessing import Box, FilePlacement
from snf_runtime.scoring.evidence import COMPLEXITY, ENERGY, GENERATIONS, Evidence, FeatureEvidence, Region, cell_side

WORDS = {
    # statistic: the text where it is higher than usual, and where it is lower
    "complexity": ("more complex than usual: more edges, texture or noise", "simpler than usual: smoother or emptier"),
    "pixel-term": (
        "unusual brightness or contrast: rarer grey values than usual",
        "unusual brightness or contrast: commoner grey values than usual",
    ),
    "unevenness": (
        "log-density varies more from place to place than usual",
        "log-density varies less from place to place than usual",
    ),
    **{kind.name: (kind.higher, kind.lower) for generation in GENERATIONS for kind in generation},
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
    if reason.box is None or reason.z > 0:
        return reason
    return replace(reason, box=next((region.box for region in regions if overlap(region.box, reason.box)), reason.box))


def statistic_reason(name: str, z: float, share: float) -> VerdictReason:
    """Describe a statistic of the whole image that is ``z`` deviations from its expected value."""
    kind, _, scale = name.partition("-") if name not in WORDS else (name, "", "")
    higher, lower = WORDS[kind]
    return VerdictReason(name, z, share, (higher if z > 0 else lower).format(scale=scale))


def region_reason(region: Region, z: float, share: float, side: int, image: tuple[int, int]) -> VerdictReason:
    """Describe a region of cells with sides of ``side`` pixels that the rest of the image does not predict."""
    cells = FilePlacement(image[::-1], (side, side))
    box = cells.box((region.left, region.top, region.right, region.bottom))
    return VerdictReason("region", z, share, f"{{where}}: {REGION[z > 0]}", box)


Array: TypeAlias = NDArray[np.float64]

MAX_REASONS = 3
MIN_SHARE = 0.05  # share of the evidence below which a reason is left out


def explain(
    statistic: Statistic, evidence: Evidence, surprises: Array, names: Sequence[str], image: tuple[int, int]
) -> list[tuple[VerdictReason, ...]]:
    """Return up to three reasons for each image's verdict, the most important first."""
    parts = np.exp(surprises - surprises.max(1, keepdims=True)) * statistic.weights
    parts = parts / parts.sum(1, keepdims=True)
    share = dict(zip(statistic.kinds, parts.T, strict=True))
    reasons: list[list[VerdictReason]] = [[] for _ in range(len(evidence))]
    _add_pixel_reasons(reasons, statistic, evidence, share, names, image)
    if statistic.features is not None and evidence.features is not None:
        found = statistic.features.strongest(evidence.features)
        placements = _placements(statistic.features, evidence.features, image)
        for number, (name, surprise, (row, column)) in enumerate(found):
            box = statistic.features.strongest_tile(evidence.features, number, name)
            words = (FEATURE_WORDS if box is None else TILE_WORDS)[name]
            if name not in TILE_WORDS:
                box = placements[number].box((column, row, column + 1, row + 1))
            part = float(share["features"][number])
            reasons[number].append(VerdictReason(name, surprise, part, words, box))
    return [
        tuple(sorted((r for r in of_image if r.share >= MIN_SHARE), key=lambda r: -r.share)[:MAX_REASONS])
        for of_image in reasons
    ]


def _placements(group: FeatureGroup, evidence: FeatureEvidence, image: tuple[int, int]) -> list[FilePlacement]:
    """Return the mapping of places to pixels of each image; ``image`` is the size of images that are one tile."""
    if evidence.plans is None:
        (height, width), (rows, columns) = image, group.centre.shape
        return [FilePlacement((width, height), (width / columns, height / rows))] * len(evidence)
    return [FilePlacement((plan.width, plan.height), (plan.stride, plan.stride)) for plan in evidence.plans]


def _add_pixel_reasons(
    reasons: list[list[VerdictReason]],
    statistic: Statistic,
    evidence: Evidence,
    share: dict[EvidenceKind, Array],
    names: Sequence[str],
    image: tuple[int, int],
) -> None:
    """Add to the reasons of each image those of the statistics of its pixels, where the calibration has any."""
    if statistic.whole is None:
        return
    values = statistic.statistics(evidence)
    squares = np.square(statistic.whole.components(values))
    shares = share["whole"][:, None] * squares / np.maximum(squares.sum(1, keepdims=True), 1e-12)
    z = statistic.whole.standardised(values)
    all_names = statistic.names(names)
    labels = [*(all_names[i] for i in statistic.whole.used), COMPLEXITY]
    labels, z, shares = _energies_by_level(labels, z, shares)
    # An uneven map has a region that makes it so; that region is the reason to report.
    uneven = np.array([label.startswith("unevenness-") for label in labels]) & (z > 0)
    regional = np.where(uneven, shares, 0).sum(1)
    shares = np.where(uneven, 0, shares)
    for i, of_image in enumerate(reasons):
        strongest = np.argsort(-shares[i])[:MAX_REASONS]
        of_image += [statistic_reason(labels[k], float(z[i, k]), float(shares[i, k])) for k in strongest]
    if statistic.local is not None:
        side = cell_side(*image)
        regions = statistic.local.most_surprising(evidence.cells, evidence.whole[:, 0])
        for i, (region, deviation) in enumerate(regions):
            part = float(share["local"][i] + regional[i])
            reasons[i].append(region_reason(region, deviation, part, side, image))


def _energies_by_level(labels: Sequence[str], z: Array, shares: Array) -> tuple[list[str], Array, Array]:
    """Merge the energies of a level's channels into one column: layers mix channels, which alone mean nothing."""
    others, levels, every = [], dict[str, list[int]](), np.arange(len(z))
    for column, label in enumerate(labels):
        if label.startswith(f"{ENERGY}-"):
            levels.setdefault(label.rpartition("-")[0], []).append(column)
        else:
            others.append(column)
    strongest = [np.array(columns)[shares[:, columns].argmax(1)] for columns in levels.values()]
    return (
        [*(labels[column] for column in others), *levels],
        np.column_stack([z[:, others], *(z[every, column] for column in strongest)]),
        np.column_stack([shares[:, others], *(shares[:, columns].sum(1) for columns in levels.values())]),
    )


@dataclass(frozen=True)
class Verdict:
    """The anomaly verdict on one image, with its p-value.

    An image is flagged if its p-value is at most ``alpha``, the requested false-alarm rate.

    The p-value is conformal: (1 + the number of calibration images that are at least as anomalous) / (n + 1), for n
    calibration images.

    Attributes:
        p_value: The conformal p-value.
        score: -log10 of the p-value.
        is_anomaly: Whether the image is flagged.
        alpha: The false-alarm rate of the verdict.
        statistic: T in nats, larger = more anomalous. It still orders images that share the smallest p-value.
        extrapolated: Whether no calibration image was as anomalous.
        smallest_p: The smallest p-value that the calibration can give.
        reasons: What contributed most, the strongest first.
        first_fold_statistic: T by the first fold of the calibration, which tests of drift rank; ``statistic`` is the
            mean over all folds.
    """

    p_value: float
    score: float
    is_anomaly: bool
    alpha: float
    statistic: float
    extrapolated: bool
    smallest_p: float
    reasons: tuple[VerdictReason, ...]
    first_fold_statistic: float

    def with_regions(self, regions: MapRegions | None) -> Verdict:
        """Return the verdict with the boxes of regions in the reasons that belong to them."""
        if regions is None:
            return self
        return replace(self, reasons=tuple(located(reason, regions.regions) for reason in self.reasons))

    def in_file(self, placement: FilePlacement) -> Verdict:
        """Return the verdict with boxes in pixels of the upright original file."""
        return replace(self, reasons=tuple(reason.in_file(placement) for reason in self.reasons))
