"""The rule of a recommendation on made-up limits: ranks, ties, families that were not measured, and the reasons."""

from __future__ import annotations

import pytest

from snf_client.schemas.limits import LimitCurve, Shape
from snf_client.schemas.recommendations import FamilyName, FamilyResult
from snf_models.limits.rule import limit_cell
from snf_models.recommendation.record import PRESET_OF
from snf_models.recommendation.rule import limit_cell_text, limit_rank, mean_rank, propose, typical_limit

SIZES = (2, 3, 4, 6, 8, 12)
Limits = tuple[int | None, ...]


def curve(shape: Shape, contrast: int | None, limit: int | None) -> LimitCurve:
    cells = [limit_cell(size, 100 if limit is not None and size >= limit else 30, 100) for size in SIZES]
    return LimitCurve(shape=shape, contrast=contrast, cells=tuple(cells), limit=limit, lower=None)


def result(family: FamilyName, *limits: int | None) -> FamilyResult:
    """A family with these limits of a scratch of 64 and of 128 grey levels, and of a hole."""
    if not limits:
        return FamilyResult(family=family, preset=PRESET_OF[family], unavailable="no backbone")
    kinds: list[tuple[Shape, int | None]] = [("scratch", 64), ("scratch", 128), ("hole", None)]
    curves = tuple(curve(*kind, limit) for kind, limit in zip(kinds, limits, strict=True))
    rank = mean_rank(curves, SIZES)
    typical = typical_limit(rank, SIZES)
    return FamilyResult(family=family, preset=PRESET_OF[family], curves=curves, mean_rank=rank, typical_limit=typical)


def test_a_shape_counts_once_whatever_its_contrasts_and_a_missed_one_as_a_size_more() -> None:
    # Scratch: places 3 and 6 (none); hole: place 1.
    assert result("pixels", 6, None, 3).mean_rank == pytest.approx((4.5 + 1) / 2)
    assert limit_cell_text(curve("hole", None, 3)) == "3"
    assert limit_cell_text(curve("hole", None, None)) == "none (30% at 12)"
    # A limit of smaller images may lie between two sizes.
    assert limit_rank(curve("hole", None, 5), SIZES) == pytest.approx(2.5)


# One step of one of two contrasts of one of two shapes is a quarter; four of them are a whole one.
@pytest.mark.parametrize(
    ("features", "pixels", "hybrid", "proposed", "reason"),
    [
        pytest.param(
            (12, 6, 12), (None, 8, 2), (3, 2, 2), "hybrid",
            "typical limit 2.25 pixels of the hybrid model, 10 of the feature model; smaller in 3 of 3 kinds of "
            "defects, larger in 0", id="smallest",
        ),
        pytest.param(
            (12, 6, 12), (None, 8, 2), (), "pixels",
            "typical limit 5 pixels of the pixel flow, 10 of the feature model; smaller in 1 of 3 kinds of defects, "
            "larger in 2", id="one-missing",
        ),
        pytest.param(
            (4, 3, 2), (3, 3, 2), (3, 3, 2), "features",
            "within half a size the cheapest wins: the feature model before the pixel flow and the hybrid model",
            id="tie",
        ),
        pytest.param(
            (6, 3, 2), (3, 3, 2), (3, 3, 2), "features",
            "within half a size the cheapest wins: the feature model before the pixel flow and the hybrid model",
            id="half-a-size-exactly",
        ),
        pytest.param(
            (12, 3, 2), (3, 3, 2), (3, 3, 2), "pixels",
            "within half a size the cheapest wins: the pixel flow before the hybrid model", id="tie-of-two",
        ),
        pytest.param(
            (), (None, None, 12), (), "pixels", "the pixel flow is the only family that could be compared", id="alone"
        ),
        pytest.param(
            (), (), (), None, "no family has a detection limit that could be measured", id="none-measured"
        ),
        pytest.param(
            (None,) * 3, (None,) * 3, (None,) * 3, "features",
            "none of the families finds any of these defects in 90 % of the images, up to 12 pixels: the limits do "
            "not tell the families apart", id="nothing-found",
        ),
    ],
)  # fmt: skip
def test_the_proposal(features: Limits, pixels: Limits, hybrid: Limits, proposed: str | None, reason: str) -> None:
    results = [result("features", *features), result("pixels", *pixels), result("hybrid", *hybrid)]
    family, reasons = propose(results, SIZES)
    assert family == proposed
    assert reason in reasons
