"""The white level of images, and that bets on it find a change of light."""

from __future__ import annotations

import math

import numpy as np
import pytest

from snf_models.anomaly.exchangeability import ConformalMartingale, RankCounts
from snf_models.datasets import load_dataset
from snf_runtime.scoring.evidence import white_levels


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
        monkeypatch.setattr(f"snf_runtime.scoring.evidence.{bound}", 50)  # counted by rows, as large images are
    assert white_levels(images).tolist() == expected
    assert white_levels([]).tolist() == []


def test_light_a_tenth_weaker_is_found_in_two_hundred_digits() -> None:
    mini = load_dataset("mnist-mini", None)
    usual = counts(white_levels(np.concatenate([mini.statistics, mini.calibration])))
    recent = mini.train[:200]
    darker = np.rint(recent * 0.9).astype(np.uint8)
    highest = []
    for images in (recent, darker):
        martingale = ConformalMartingale()
        martingale.bet(RankCounts.of(usual).add(white_levels(images).astype(np.int64)))
        highest.append(martingale.log_highest)
    assert highest[0] < math.log(20)
    assert highest[1] > math.log(1e20)
