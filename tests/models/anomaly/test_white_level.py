"""The white level of images, and the test for a change of light: against SciPy, and with real digits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from models.anomaly.drift import level_test
from models.datasets import load_dataset
from snf_runtime.scoring.white_level import white_levels


def counts(levels: np.ndarray) -> list[int]:
    return [int((levels == level).sum()) for level in range(256)]


def test_a_white_level_is_the_ninety_ninth_percentile_of_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((1, 5, 4), (3, 32, 32), (1, 200, 11))]
    large = generator.normal(120, 20, (300, 200, 3)).clip(0, 255).astype(np.uint8)
    images += [large.transpose(2, 0, 1), np.ascontiguousarray(large[:, :, :1].transpose(2, 0, 1))]
    expected = [np.percentile(image, 99, method="inverted_cdf") for image in images]
    assert white_levels(images).tolist() == expected
    for bound in ("SMALL", "AT_ONCE"):
        monkeypatch.setattr(f"snf_runtime.scoring.white_level.{bound}", 50)  # counted by rows, as large images are
    assert white_levels(images).tolist() == expected
    assert white_levels([]).tolist() == []


@pytest.mark.parametrize("recent", [50, 333])
def test_distance_and_medians_are_those_of_two_samples(recent: int) -> None:
    generator = np.random.default_rng(recent)
    some, usual = generator.integers(100, 180, recent), generator.integers(110, 190, 400)
    found = level_test(some, counts(usual))
    assert found.statistic == pytest.approx(ks_2samp(some, usual).statistic, abs=1e-12)
    assert found.p_value == pytest.approx(ks_2samp(some, usual, method="asymp").pvalue, rel=0.5)
    assert found.median == np.percentile(some, 50, method="inverted_cdf")
    assert found.usual == np.percentile(usual, 50, method="inverted_cdf")


def test_light_a_tenth_weaker_is_found_in_two_hundred_digits() -> None:
    mini = load_dataset("mnist-mini", None)
    usual = counts(white_levels(np.concatenate([mini.statistics, mini.calibration])))
    recent = mini.train[:200]
    assert level_test(white_levels(recent), usual).p_value > 1e-3
    darker = np.rint(recent * 0.9).astype(np.uint8)
    found = level_test(white_levels(darker), usual)
    assert found.p_value < 1e-30
    assert found.median == pytest.approx(0.9 * found.usual, abs=2)


@pytest.mark.parametrize(("recent", "usual"), [([], [1] * 256), ([3], [0] * 256)])
def test_empty_sets_are_refused(recent: list[int], usual: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        level_test(recent, usual)
