"""Rule that proposes a family by its detection limits, with reasons in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from models.artifacts.detection_limit import LimitCurve, Shape
from models.recommendation.record import FAMILIES, FamilyName, FamilyResult

NEAR = 0.5
"""Largest difference of two mean ranks, in steps of the grid of sizes, that is a tie."""
MAX_DIFFERENCES = 3
"""Defects that are named in a reason, those with the largest differences."""
NAMES: dict[FamilyName, str] = {
    "features": "the feature model",
    "pixels": "the pixel flow",
    "hybrid": "the hybrid model",
}
PLURALS: dict[Shape, str] = {
    "scratch": "scratches",
    "spot": "spots",
    "stain": "stains",
    "hole": "holes",
    "missing-part": "missing parts",
}
NOT_COVERED = (
    "Injected defects are small and local. Not measured: noise, light, focus and images of another kind, which pixel "
    "flows and hybrid models see too. Bits/dim of images and samples need a pixel flow (snf-glow-small, snf-hybrid)."
)


@dataclass(frozen=True)
class Proposal:
    """Proposed family, or None if none was measured, with the reasons as sentences."""

    family: FamilyName | None
    reasons: tuple[str, ...]


def limit_rank(curve: LimitCurve, sizes: Sequence[int]) -> int:
    """Return the index of a limit in ``sizes``, or their number if there is no limit."""
    return len(sizes) if curve.limit is None else sizes.index(curve.limit)


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


def propose(results: Sequence[FamilyResult], sizes: Sequence[int]) -> Proposal:
    """Propose the cheapest family whose mean rank is at most half a step above the smallest."""
    measured = {result.family: result for result in results if result.mean_rank is not None}
    if not measured:
        return Proposal(None, ("no family has a detection limit that could be measured",))
    ranks = {family: result.mean_rank or 0.0 for family, result in measured.items()}
    best = min(ranks.values())
    family = next(family for family in FAMILIES if family in ranks and ranks[family] <= best + NEAR)
    others = [other for other in FAMILIES if other in ranks and other != family]
    reasons = [_difference(measured[family], measured[other], sizes) for other in others]
    if all(curve.limit is None for result in measured.values() for curve in result.curves):
        reasons = [
            f"none of the families finds any of these defects in 90 % of the images, up to {sizes[-1]} pixels: the "
            "limits do not tell the families apart"
        ]
    ties = [other for other in others if abs(ranks[other] - ranks[family]) <= NEAR]
    if ties:
        reasons.append(_tie(measured[family], [measured[other] for other in ties], sizes))
    if not others:
        reasons.append(f"{NAMES[family]} is the only family that could be compared")
    return Proposal(family, tuple(reasons))


def limit_words(curve: LimitCurve) -> str:
    """Return a limit in words, such as ``not up to 12 pixels``.

    >>> limit_words(LimitCurve(shape="spot", contrast=64, cells=(), limit=6, lower=0.95))
    'from 6 pixels'
    """
    return f"not up to {curve.cells[-1].size} pixels" if curve.limit is None else f"from {curve.limit} pixels"


def limit_cell_text(curve: LimitCurve) -> str:
    """Return a limit for a table, or the share at the largest size, such as ``none (60% at 12)``."""
    largest = curve.cells[-1]
    return str(curve.limit) if curve.limit is not None else f"none ({largest.share:.0%} at {largest.size})"


def _difference(proposed: FamilyResult, other: FamilyResult, sizes: Sequence[int]) -> str:
    """Return a sentence with the defects in whose limits two families differ most."""
    pairs = [(a, b) for a in proposed.curves for b in other.curves if a.label == b.label]
    steps = {a.label: limit_rank(b, sizes) - limit_rank(a, sizes) for a, b in pairs}
    better = sorted((pair for pair in pairs if steps[pair[0].label] > 0), key=lambda pair: -steps[pair[0].label])
    worse = sorted((pair for pair in pairs if steps[pair[0].label] < 0), key=lambda pair: steps[pair[0].label])
    name, against = NAMES[proposed.family], NAMES[other.family]
    parts = []
    if better:
        parts.append(f"{name} finds {_listed(better, against)}")
    if worse:
        swapped = [(b, a) for a, b in worse]
        parts.append(f"{against} is ahead in {len(worse)} of {len(pairs)}: {_listed(swapped, name)}")
    return "; ".join(parts) or f"{name} and {against} have the same limits"


def _listed(pairs: Sequence[tuple[LimitCurve, LimitCurve]], other: str) -> str:
    """Return limits in words, each with that of the ``other`` family in brackets."""
    shown = [f"{_plural(a)} {limit_words(a)} ({other}: {limit_words(b)})" for a, b in pairs[:MAX_DIFFERENCES]]
    more = len(pairs) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


def _plural(curve: LimitCurve) -> str:
    contrast = "" if curve.contrast is None else f" of {curve.contrast} grey levels"
    return PLURALS[curve.shape] + contrast


def _tie(proposed: FamilyResult, ties: Sequence[FamilyResult], sizes: Sequence[int]) -> str:
    """Return a sentence that says why one of several families with nearly the same limits is proposed."""
    limits = ", ".join(
        f"{NAMES[result.family]} {typical_limit(result.mean_rank or 0.0, sizes)} pixels" for result in (proposed, *ties)
    )
    cost = ""
    if proposed.fit_seconds is not None and proposed.seconds_per_1000 is not None:
        cost = f" (fitted in {proposed.fit_seconds:.0f} s, {proposed.seconds_per_1000:.1f} s for 1,000 images)"
    return (
        f"typical limits within half a step of the tried sizes are a tie ({limits}), which the cheaper family wins: "
        f"{NAMES[proposed.family]}{cost}. Features are fitted without training, a pixel flow is trained, a hybrid "
        "model takes both"
    )
