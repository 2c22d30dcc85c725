"""The rule that proposes a family by its detection limits, with reasons in words.

The family with the smallest mean rank of its limits among the sizes is proposed. Within half a size the cheapest wins:
features, then pixels, then both.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import get_args

import numpy as np

from snf_client.schemas.limits import LimitCurve
from snf_client.schemas.recommendations import FamilyName, FamilyResult
from snf_models.errors import DatasetUnfit

FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)
"""The families, the cheapest first: features are fitted in closed form, pixels are trained, a hybrid takes both."""
PRESET_OF: dict[FamilyName, str] = {"features": "snf-features", "pixels": "snf-glow-small", "hybrid": "snf-hybrid"}
MIN_TRAIN = 100
"""Fewest images of the train part that can be divided."""


def check_train_images(name: str, train: int) -> None:
    """Raise ``DatasetUnfit`` for fewer than 100 training images."""
    if train < MIN_TRAIN:
        raise DatasetUnfit(
            f"a comparison of families divides the training images, expected at least {MIN_TRAIN} of them, "
            f"{name} has {train}: upload more images, or train snf-features, which suits few images"
        )


NEAR = 0.5
"""Largest difference of two mean ranks, in steps of the grid of sizes, that is a tie."""
NAMES: dict[FamilyName, str] = {
    "features": "the feature model",
    "pixels": "the pixel flow",
    "hybrid": "the hybrid model",
}
NOT_COVERED = (
    "Injected defects are small and local. Not measured: noise, light, focus and images of another kind, which pixel "
    "flows and hybrid models see too. Bits/dim of images and samples need a pixel flow (snf-glow-small, snf-hybrid)."
)


def limit_rank(curve: LimitCurve, sizes: Sequence[int]) -> float:
    """Return the place of a limit among ``sizes``, between two where it is none of them; their number without one."""
    return len(sizes) if curve.limit is None else float(np.interp(curve.limit, sizes, range(len(sizes))))


def mean_rank(curves: Sequence[LimitCurve], sizes: Sequence[int]) -> float:
    """Return the mean over shapes of the mean rank over contrasts; smaller is better."""
    shapes = dict.fromkeys(curve.shape for curve in curves)
    return fmean(fmean(limit_rank(curve, sizes) for curve in curves if curve.shape == shape) for shape in shapes)


def typical_limit(rank: float, sizes: Sequence[int]) -> str:
    """Return the size in pixels that a mean rank stands for.

    >>> typical_limit(2.25, (2, 3, 4, 6)), typical_limit(3.5, (2, 3, 4, 6))
    ('4.5', 'over 6')
    """
    return f"over {sizes[-1]}" if rank > len(sizes) - 1 else f"{np.interp(rank, range(len(sizes)), sizes):.3g}"


def propose(results: Sequence[FamilyResult], sizes: Sequence[int]) -> tuple[FamilyName | None, tuple[str, ...]]:
    """Return the proposed family, or None if none was measured, and the reasons as sentences."""
    ranks = {result.family: result.mean_rank for result in results if result.mean_rank is not None}
    if not ranks:
        return None, ("no family has a detection limit that could be measured",)
    measured = {result.family: result for result in results}
    best = min(ranks.values())
    family = next(family for family in FAMILIES if family in ranks and ranks[family] <= best + NEAR)
    others = [other for other in FAMILIES if other in ranks and other != family]
    if not others:
        return family, (f"{NAMES[family]} is the only family that could be compared",)
    if all(curve.limit is None for name in ranks for curve in measured[name].curves):
        reasons = [
            f"none of the families finds any of these defects in 90 % of the images, up to {sizes[-1]} pixels: the "
            "limits do not tell the families apart"
        ]
    else:
        reasons = [_difference(measured[family], measured[other], sizes) for other in others]
    if ties := [NAMES[other] for other in others if abs(ranks[other] - ranks[family]) <= NEAR]:
        reasons.append(f"within half a size the cheapest wins: {NAMES[family]} before {' and '.join(ties)}")
    return family, tuple(reasons)


def limit_cell_text(curve: LimitCurve) -> str:
    """Return a limit for a table, or the share at the largest size, such as ``none (60% at 12)``."""
    largest = curve.cells[-1]
    return str(curve.limit) if curve.limit is not None else f"none ({largest.share:.0%} at {largest.size})"


def _difference(proposed: FamilyResult, other: FamilyResult, sizes: Sequence[int]) -> str:
    pairs = list(zip(proposed.curves, other.curves, strict=True))
    gains = [limit_rank(b, sizes) - limit_rank(a, sizes) for a, b in pairs]
    ahead, behind = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return (
        f"typical limit {proposed.typical_limit} pixels of {NAMES[proposed.family]}, {other.typical_limit} of "
        f"{NAMES[other.family]}; smaller in {ahead} of {len(pairs)} kinds of defects, larger in {behind}"
    )
