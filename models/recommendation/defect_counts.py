"""Count of the injected defects that each family finds, until its limits are known or the time is used up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from models.artifacts.limits import FOUND_SHARE, GRADED, SHAPES, LimitCell, LimitCurve, Shape
from models.datasets import Images
from models.limits.cells import CellJournal
from models.limits.defects import Defect, defect_kinds
from models.limits.measure import BATCH, damaged_images, defect_label
from models.limits.rule import limit_cell, limit_curve
from models.recommendation.budget import Budget
from models.recommendation.judges import FamilyJudges
from models.recommendation.record import FamilyName

EARLY_SHARE = 0.4
"""Share of all sizes that is expected to be measured: a kind is done with the first size that every family misses."""


@dataclass(frozen=True)
class DefectCurves:
    """The curves of each family, and the kinds of defects that no time was left for.

    Attributes:
        curves: The curves of each family; all have the same kinds.
        left_out: The kinds of defects that were not measured, in words.
    """

    curves: dict[FamilyName, tuple[LimitCurve, ...]]
    left_out: tuple[str, ...]


def kinds_by_importance(shapes: Sequence[Shape], contrasts: Sequence[int]) -> list[tuple[Shape, int | None]]:
    """Return the kinds of defects, first every shape once, with the middle contrast: time may be too short for all."""
    middle = sorted(contrasts)[len(contrasts) // 2]
    kinds = defect_kinds(shapes, contrasts)
    return sorted(kinds, key=lambda kind: kind[0] in GRADED and kind[1] != middle)


def count_defects(
    judges: FamilyJudges,
    families: Sequence[FamilyName],
    good: Images,
    kinds: Sequence[tuple[Shape, int | None]],
    sizes: Sequence[int],
    seed: int,
    budget: Budget,
    journal: CellJournal,
) -> DefectCurves:
    """Count found defects from the largest size down, for each family until the first size below its limit.

    Args:
        judges: The calibrated families.
        families: Those to measure.
        good: The images that get the defects, uint8 ``(n, C, H, W)``.
        kinds: The kinds of defects, the most important first.
        sizes: The sizes, the smallest first.
        seed: The seed of places, angles and signs.
        budget: The time. No size is begun that would not be finished in it.
        journal: Counts of an earlier attempt, and of this one.
    """
    curves: dict[FamilyName, list[LimitCurve]] = {family: [] for family in families}
    left_out: list[str] = []
    seconds = len(good) * max((judges.seconds_per_image(family) for family in families), default=0.0)
    for number, (shape, contrast) in enumerate(kinds):
        cells: dict[FamilyName, list[LimitCell]] = {family: [] for family in families}
        for size in reversed(sizes):
            going = [f for f in families if not cells[f] or cells[f][-1].lower >= FOUND_SHARE]
            if not going:
                break
            if seconds > budget.left:
                left_out = [limit_curve(*kind, ()).label for kind in kinds[number:]]
                return _ordered(curves, left_out)
            began = time.monotonic()
            found = _found(judges, going, good, Defect(shape, size, contrast), seed, budget, journal)
            seconds = max(0.5 * seconds, time.monotonic() - began)
            for family, count in found.items():
                cells[family].append(limit_cell(size, count, len(good)))
            remaining = EARLY_SHARE * len(sizes) * (len(kinds) - number)
            budget.tick(seconds * remaining)
        for family in families:
            curves[family].append(limit_curve(shape, contrast, cells[family]))
    return _ordered(curves, left_out)


def _found(
    judges: FamilyJudges,
    families: Sequence[FamilyName],
    good: Images,
    defect: Defect,
    seed: int,
    budget: Budget,
    journal: CellJournal,
) -> dict[FamilyName, int]:
    keys = {family: f"{family}: {defect_label(defect)}" for family in families}
    known = {family: count for family in families if (count := journal.get(keys[family])) is not None}
    missing = [family for family in families if family not in known]
    counts = dict.fromkeys(missing, 0)
    for start in range(0, len(good) if missing else 0, BATCH):
        damaged = damaged_images(good[start : start + BATCH], defect, seed, start)
        for family, count in judges.flagged(damaged, missing).items():
            counts[family] += count
        budget.tick()
    for family, count in counts.items():
        journal.put(keys[family], count)
    return known | counts


def _ordered(curves: dict[FamilyName, list[LimitCurve]], left_out: Sequence[str]) -> DefectCurves:
    """Return the curves sorted by shape and contrast."""
    return DefectCurves({family: tuple(sorted(rows, key=_place)) for family, rows in curves.items()}, tuple(left_out))


def _place(curve: LimitCurve) -> tuple[int, int]:
    return SHAPES.index(curve.shape), curve.contrast or 0
