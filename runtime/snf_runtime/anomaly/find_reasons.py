"""Reasons for anomaly verdicts: the statistics, regions and features that contributed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.statistics.combined import EvidenceKind, Statistic
from snf_runtime.anomaly.statistics.features import FeatureFamily
from snf_runtime.anomaly.verdict_reason import (
    PlaceGrid,
    VerdictReason,
    feature_reason,
    region_reason,
    statistic_reason,
)
from snf_runtime.scoring.channel_statistics import ENERGY
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.grid import cell_side
from snf_runtime.scoring.latent_statistics import COMPLEXITY

Array: TypeAlias = NDArray[np.float64]

MAX_REASONS = 3
MIN_SHARE = 0.05
"""Share of the evidence below which a reason is left out."""


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
        grids = _grids(statistic.features, evidence.features, image)
        for number, (name, surprise, place) in enumerate(found):
            tile = statistic.features.strongest_tile(evidence.features, number, name)
            part = float(share["features"][number])
            reasons[number].append(feature_reason(name, surprise, part, place, grids[number], tile))
    return [
        tuple(sorted((r for r in of_image if r.share >= MIN_SHARE), key=lambda r: -r.share)[:MAX_REASONS])
        for of_image in reasons
    ]


def _grids(family: FeatureFamily, evidence: FeatureEvidence, image: tuple[int, int]) -> list[PlaceGrid]:
    """Return the grid of the places of each image; ``image`` is the size of images that are one tile, in pixels."""
    if evidence.plans is None:
        rows, columns = family.centre.shape
        return [PlaceGrid((rows, columns), image, image)] * len(evidence)
    return [
        PlaceGrid(plan.grid, (plan.grid[0] * plan.stride, plan.grid[1] * plan.stride), (plan.height, plan.width))
        for plan in evidence.plans
    ]


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
