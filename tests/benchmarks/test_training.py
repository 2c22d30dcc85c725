"""The benchmarks of training steps: parts of a step, and bfloat16 beside float32."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from benchmarks import step_profile, training_precision
from benchmarks.step_profile import DATA, LINEAR, NETS, OPTIMIZER, OTHERS, PENALTY, PIXELS, REST, SPLINES
from snf_models.datasets import load_dataset


def test_the_time_of_a_step_belongs_to_its_parts() -> None:
    shares = step_profile.measure("snf-glow-tiny", "float32", 2, 1)
    assert sum(shares.values()) == pytest.approx(1)
    both = {(part, backward) for part in (NETS, LINEAR, PENALTY, OTHERS) for backward in (False, True)}
    assert both | {(DATA, False), (PIXELS, False), (OPTIMIZER, False)} <= shares.keys()
    assert all(share > 0 for share in shares.values())
    assert (SPLINES, False) not in shares
    assert shares[REST, False] + shares[REST, True] < 0.5
    rows = step_profile.rows_of(shares)
    assert sum(rows.values()) == pytest.approx(1)
    table = step_profile.as_markdown({"tiny": rows})
    assert f"| {NETS}, backward | {100 * shares[NETS, True]:.0f} % |\n" in table
    assert f"| {SPLINES}, forward |  |\n" in table
    written = (step_profile.RESULTS / "step_profile.md").read_text(encoding="utf-8")
    assert [row for row in rows if f"| {row} |" not in written] == []


def test_trainings_of_both_precisions_have_the_same_start(tmp_path: Path) -> None:
    dataset = load_dataset("mnist-mini", None)
    rows = [
        training_precision.measure(dataset, "snf-glow-tiny", 2, 1, precision, tmp_path, lambda: False)
        for precision in training_precision.PRECISIONS
    ]
    assert [(row["seed"], row["precision"]) for row in rows] == [(1, "float32"), (1, "bfloat16")]
    (difference,) = training_precision.differences(rows).values()
    assert 0 < abs(difference) < 0.01
    path, key = tmp_path / "rows.json", {"preset": "snf-glow-tiny", "steps": 2, "images": 100}
    path.write_text(json.dumps({**key, "rows": rows}))
    assert training_precision.stored(path, key) == rows
    assert training_precision.stored(path, {**key, "steps": 3}) == []


def test_examples_of_the_modules() -> None:
    assert doctest.testmod(training_precision).failed == 0


def test_examples_of_the_learning_curve() -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    from benchmarks import learning_curve  # noqa: PLC0415 - the module needs matplotlib

    assert doctest.testmod(learning_curve) == (0, 1)
