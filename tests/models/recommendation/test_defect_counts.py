"""The order of the defects, and what is measured of them within a budget: real defects, judged by their area."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.artifacts.detection_limit import Shape
from models.limits.cells import CellJournal
from models.recommendation.budget import Budget
from models.recommendation.defect_counts import DefectCurves, count_defects, kinds_by_importance
from models.recommendation.judges import FamilyJudges
from models.recommendation.record import FamilyName

SIZES = (2, 3, 4, 6, 8, 12)
GOOD = np.full((40, 1, 28, 28), 100, dtype=np.uint8)


class AreaJudges:
    """Families that flag an image if so many of its pixels are changed."""

    def __init__(self, **areas: int) -> None:
        self.areas = areas
        self.asked: list[tuple[str, ...]] = []

    def seconds_per_image(self, _family: FamilyName) -> float:
        return 0.001

    def flagged(self, images: NDArray[np.uint8], families: Iterable[FamilyName]) -> dict[FamilyName, int]:
        asked = list(families)
        self.asked.append(tuple(asked))
        changed = (images != 100).sum((1, 2, 3))
        return {family: int((changed >= self.areas[family]).sum()) for family in asked}


def counted(judges: AreaJudges, folder: Path, seconds: float = 60) -> DefectCurves:
    budget = Budget(seconds, "plan", folder, lambda _event: None, lambda: False)
    families: list[FamilyName] = ["features", "pixels"]
    kinds: list[tuple[Shape, int | None]] = [("spot", 64), ("hole", None)]
    return count_defects(
        cast(FamilyJudges, judges),
        families,
        GOOD,
        kinds,
        SIZES,
        0,
        budget,
        CellJournal(folder, "plan"),
    )


def test_each_family_goes_down_to_the_first_size_that_it_misses(tmp_path: Path) -> None:
    # Discs of 8 and 4 pixels have 52 and 12 whole pixels, and some that are covered in part.
    judges = AreaJudges(features=12, pixels=50)
    counts = counted(judges, tmp_path)
    limits = {family: [(curve.label, curve.limit) for curve in curves] for family, curves in counts.curves.items()}
    assert limits == {
        "features": [("spot, 64 grey levels", 4), ("hole", 4)],
        "pixels": [("spot, 64 grey levels", 8), ("hole", 8)],
    }
    assert (counts.left_out, counts.cut_short) == ((), ())
    # Both kinds of a size come before the next size; a family that has missed one is not asked again.
    assert judges.asked == [("features", "pixels")] * 6 + [("features",)] * 4
    # Another attempt takes the counts of this one.
    again = AreaJudges(features=12, pixels=50)
    assert counted(again, tmp_path).curves == counts.curves
    assert again.asked == []


def test_without_time_nothing_is_begun_and_every_kind_is_named(tmp_path: Path) -> None:
    judges = AreaJudges(features=12, pixels=50)
    counts = counted(judges, tmp_path, seconds=0)
    assert judges.asked == []
    assert counts.curves == {"features": (), "pixels": ()}
    assert counts.left_out == ("spot, 64 grey levels", "hole")


def test_every_shape_comes_once_before_other_contrasts() -> None:
    kinds = kinds_by_importance(("scratch", "hole", "spot"), (128, 32, 64))
    assert kinds[:3] == [("scratch", 64), ("hole", None), ("spot", 64)]
    assert kinds[3:] == [("scratch", 32), ("scratch", 128), ("spot", 32), ("spot", 128)]
