"""Count of the synthetic defects that each family finds, until limits are known or time is used up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from models.artifacts.detection_limit import FOUND_SHARE, GRADED, SHAPES, LimitCell, LimitCurve, Shape
from models.datasets import Images
from models.limits.cells import CellJournal
from models.limits.defects import Defect, defect_kinds
from models.limits.measure import BATCH, damaged_images, defect_label
from models.limits.rule import limit_cell, limit_curve
from models.recommendation.budget import Budget
from models.recommendation.judges import FamilyJudges
from models.recommendation.record import FamilyName

Kind = tuple[Shape, int | None]
"""The shape of a defect, and its contrast in grey levels or None."""


@dataclass(frozen=True)
class DefectCurves:
    """Detection rates of each family, for the same kinds of defects."""

    curves: dict[FamilyName, tuple[LimitCurve, ...]]
    left_out: tuple[str, ...]  # kinds that were not measured, in words
    cut_short: tuple[str, ...]  # kinds whose limits may be smaller


def kinds_by_importance(shapes: Sequence[Shape], contrasts: Sequence[int]) -> list[Kind]:
    """Return each shape once, with the middle contrast, then the other contrasts."""
    middle = sorted(contrasts)[len(contrasts) // 2]
    kinds = defect_kinds(shapes, contrasts)
    return sorted(kinds, key=lambda kind: kind[0] in GRADED and kind[1] != middle)


def count_defects(
    judges: FamilyJudges,
    families: Sequence[FamilyName],
    good: Images,
    kinds: Sequence[Kind],
    sizes: Sequence[int],
    seed: int,
    budget: Budget,
    journal: CellJournal,
) -> DefectCurves:
    """Count from the largest size down until every family misses; all kinds of a size come before the next one."""
    cells: dict[tuple[Kind, FamilyName], list[LimitCell]] = {(kind, f): [] for kind in kinds for f in families}
    seconds = len(good) * max((judges.seconds_per_image(family) for family in families), default=0.0)

    def going(kind: Kind) -> list[FamilyName]:
        return [f for f in families if not cells[kind, f] or cells[kind, f][-1].lower >= FOUND_SHARE]

    todo = [(size, kind) for size in reversed(sizes) for kind in kinds]
    cut = False
    for number, (size, kind) in enumerate(todo):
        wanted = going(kind)
        if not wanted:
            continue
        cut = seconds > budget.left
        if cut:
            break
        began = time.monotonic()
        found = _found(judges, wanted, good, Defect(kind[0], size, kind[1]), seed, budget, journal)
        seconds = max(0.5 * seconds, time.monotonic() - began)
        for family, count in found.items():
            cells[kind, family].append(limit_cell(size, count, len(good)))
        budget.tick(seconds * sum(bool(going(later)) for _, later in todo[number + 1 :]))
    unfinished = [kind for kind in kinds if cut and any(len(cells[kind, f]) < len(sizes) for f in going(kind))]
    measured = sorted((kind for kind in kinds if families and cells[kind, families[0]]), key=_place)
    return DefectCurves(
        {family: tuple(limit_curve(*kind, cells[kind, family]) for kind in measured) for family in families},
        tuple(_label(kind) for kind in unfinished if kind not in measured),
        tuple(_label(kind) for kind in unfinished if kind in measured),
    )


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


def _label(kind: Kind) -> str:
    return limit_curve(*kind, ()).label


def _place(kind: Kind) -> tuple[int, int]:
    return SHAPES.index(kind[0]), kind[1] or 0
