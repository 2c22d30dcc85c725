"""How a budget is shared out: by measured speeds, within bounds, and the same for a later attempt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.recommendation.budget import Budget


def budget(folder: Path, digest: str = "plan") -> Budget:
    return Budget(300, digest, folder, lambda _event: None, lambda: False)


def test_the_pixel_flow_gets_what_the_rest_leaves_within_bounds(tmp_path: Path) -> None:
    fresh = budget(tmp_path)
    # Fast: a quarter is kept for the defects all the same, and a margin of a twentieth.
    seconds, good = fresh.share_out(0.0001, 1500, 66, 100)
    assert (seconds, good) == (pytest.approx(300 * 0.7, abs=2), 100)
    # 40 passes of 100 images of 25 ms take 100 s, 1,000 reference images 25 s.
    seconds, good = fresh.share_out(0.025, 1000, 98, 100)
    assert (seconds, good) == (pytest.approx(300 - 0.025 * 100 * 40.2 - 25 - 15, abs=2), 100)
    # Slow: fewer images, but not fewer than 60, and a fifth for the pixel flow.
    assert fresh.share_out(1.0, 1000, 98, 100) == (60, 60)
    assert fresh.share_out(1.0, 1000, 98, 40) == (60, 40)


def test_another_attempt_goes_on_with_the_plan_and_a_damaged_or_foreign_one_is_ignored(tmp_path: Path) -> None:
    first = budget(tmp_path)
    first.plan.pixel_seconds = 120.0
    first.note("fewer images")
    first.save()
    again = budget(tmp_path)
    assert (again.plan.pixel_seconds, again.plan.notes) == (120.0, ["fewer images"])
    assert again.spent >= first.plan.spent > 0
    assert budget(tmp_path, "other").plan.pixel_seconds is None
    (tmp_path / "plan.json").write_text(json.dumps({"digest": "plan", "spent": -1}))
    assert budget(tmp_path).plan.spent == 0
