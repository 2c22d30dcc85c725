"""The rule of a recommendation on made-up limits: ranks, ties, families that were not measured, and the reasons."""

from __future__ import annotations

import pytest

from models.artifacts.detection_limit import LimitCurve, Shape
from models.limits.rule import limit_cell
from models.recommendation.record import PRESET_OF, FamilyName, FamilyResult
from models.recommendation.rule import limit_cell_text, mean_rank, propose

SIZES = (2, 3, 4, 6, 8, 12)


def curve(shape: Shape, contrast: int | None, limit: int | None) -> LimitCurve:
    cells = [limit_cell(size, 100 if limit is not None and size >= limit else 30, 100) for size in SIZES]
    return LimitCurve(shape=shape, contrast=contrast, cells=tuple(cells), limit=limit, lower=None)


def result(family: FamilyName, *limits: int | None) -> FamilyResult:
    """A family with these limits of a scratch of 64 and of 128 grey levels, and of a hole."""
    kinds: list[tuple[Shape, int | None]] = [("scratch", 64), ("scratch", 128), ("hole", None)]
    curves = tuple(curve(*kind, limit) for kind, limit in zip(kinds, limits, strict=True))
    return FamilyResult(
        family=family,
        preset=PRESET_OF[family],
        curves=curves,
        mean_rank=mean_rank(curves, SIZES) if curves else None,
        fit_seconds=12.0,
        seconds_per_1000=3.25,
    )


def test_a_shape_counts_once_whatever_its_contrasts_and_a_missed_one_as_a_size_more() -> None:
    # Scratch: places 3 and 6 (none); hole: place 1.
    assert result("pixels", 6, None, 3).mean_rank == pytest.approx((4.5 + 1) / 2)
    assert limit_cell_text(curve("hole", None, 3)) == "3"
    assert limit_cell_text(curve("hole", None, None)) == "none (30% at 12)"


def test_the_smallest_limits_win_and_the_reasons_name_them() -> None:
    pixels, features = result("pixels", None, 8, 2), result("features", 12, 6, 12)
    proposal = propose([features, pixels, result("hybrid", 3, 2, 2)], SIZES)
    assert proposal.family == "hybrid"
    assert proposal.reasons[0] == (
        "the hybrid model finds holes from 2 pixels (the feature model: from 12 pixels), "
        "scratches of 64 grey levels from 3 pixels (the feature model: from 12 pixels), "
        "scratches of 128 grey levels from 2 pixels (the feature model: from 6 pixels)"
    )
    assert "scratches of 64 grey levels from 3 pixels (the pixel flow: not up to 12 pixels)" in proposal.reasons[1]
    alone = propose([features, pixels], SIZES)
    assert alone.family == "pixels"
    assert alone.reasons[0] == (
        "the pixel flow finds holes from 2 pixels (the feature model: from 12 pixels); the feature model is ahead in 2 "
        "of 3: scratches of 64 grey levels from 12 pixels (the pixel flow: not up to 12 pixels), scratches of 128 grey "
        "levels from 6 pixels (the pixel flow: from 8 pixels)"
    )


def test_within_half_a_size_the_cheaper_family_wins() -> None:
    # One step of one of two contrasts of one of two shapes is a quarter; four of them are a whole one.
    near, far = result("features", 4, 3, 2), result("features", 12, 3, 2)
    pixels, hybrid = result("pixels", 3, 3, 2), result("hybrid", 3, 3, 2)
    proposal = propose([near, pixels, hybrid], SIZES)
    assert proposal.family == "features"
    assert proposal.reasons[-1].startswith(
        "typical limits within half a step of the tried sizes are a tie (the feature model 2.75 pixels, the pixel flow "
        "2.5 pixels, the hybrid model 2.5 pixels), which the cheaper family wins: the feature model (fitted in 12 s, "
        "3.2 s for 1,000 images)"
    )
    assert propose([far, pixels, hybrid], SIZES).family == "pixels"
    assert propose([result("features", 6, 3, 2), pixels, hybrid], SIZES).family == "features"  # half a size exactly


def test_families_without_limits_are_left_out() -> None:
    missing = FamilyResult(family="features", preset="snf-features", unavailable="no backbone")
    proposal = propose([missing, result("pixels", None, None, 12)], SIZES)
    assert (proposal.family, proposal.reasons) == (
        "pixels",
        ("the pixel flow is the only family that could be compared",),
    )
    assert propose([missing], SIZES).family is None


def test_where_nothing_is_found_the_cheapest_is_proposed_and_the_reasons_say_so() -> None:
    proposal = propose([result(family, None, None, None) for family in ("features", "pixels", "hybrid")], SIZES)
    assert proposal.family == "features"
    assert "up to 12 pixels: the limits do not tell the families apart" in proposal.reasons[0]
