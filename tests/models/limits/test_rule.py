from math import comb

import pytest

from snf_models.anomaly.exchangeability import clopper_pearson
from snf_models.limits.rule import goes_on, limit_cell, limit_curve, undamaged_images


def at_least(found: int, images: int, share: float) -> float:
    """Probability of at least ``found`` of ``images``, summed term by term."""
    return sum(comb(images, k) * share**k * (1 - share) ** (images - k) for k in range(found, images + 1))


@pytest.mark.parametrize(("found", "images"), [(1, 29), (28, 30), (29, 29), (90, 100), (150, 200)])
def test_bounds_are_the_shares_at_which_a_count_becomes_unlikely(found: int, images: int) -> None:
    lower, upper = clopper_pearson(found, images)
    assert at_least(found, images, lower) == pytest.approx(0.05)
    if found < images:
        assert 1 - at_least(found + 1, images, upper) == pytest.approx(0.05)
    else:
        assert upper == 1


def test_no_and_all_found() -> None:
    lower, upper = clopper_pearson(0, 20)
    assert lower == 0
    assert upper == pytest.approx(1 - 0.05 ** (1 / 20))
    assert clopper_pearson(29, 29)[0] == pytest.approx(0.05 ** (1 / 29)) == pytest.approx(0.90185, abs=1e-5)
    assert clopper_pearson(28, 28)[0] < 0.9


def test_the_limit_is_the_smallest_size_from_which_on_all_bounds_reach_90_percent() -> None:
    # 94 of 100 have a bound of 0.8854, 95 of 100 one of 0.8977, 96 of 100 one of 0.9109.
    found = {2: 100, 3: 95, 4: 96, 6: 100, 8: 96}
    curve = limit_curve("spot", 64, [limit_cell(size, count, 100) for size, count in found.items()])
    assert curve.limit == 4
    assert curve.lower == pytest.approx(0.9109, abs=1e-4)
    assert [cell.size for cell in curve.cells] == [2, 3, 4, 6, 8]
    assert curve.label == "spot, 64 grey levels"


def test_no_limit_where_the_largest_is_missed() -> None:
    curve = limit_curve("missing-part", None, [limit_cell(12, 95, 100), limit_cell(8, 100, 100)])
    assert (curve.limit, curve.lower, curve.label) == (None, None, "missing part")


def test_smaller_sizes_are_left_out_once_hardly_half_are_found() -> None:
    assert goes_on(limit_cell(6, 45, 100))
    assert not goes_on(limit_cell(6, 40, 100))


def test_undamaged_images_have_a_two_sided_interval() -> None:
    undamaged = undamaged_images(2, 100)
    assert undamaged.interval is not None
    lower, upper = undamaged.interval
    assert at_least(2, 100, lower) == pytest.approx(0.025)
    assert 1 - at_least(3, 100, upper) == pytest.approx(0.025)
    assert undamaged_images(0, 0).share is None
