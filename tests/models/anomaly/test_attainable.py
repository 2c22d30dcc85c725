"""What a calibration can give: its smallest alpha, and verdicts with gradients where enough images have gradients."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from models.anomaly.fitting.split_or_cross_conformal import MIN_GRADIENT_IMAGES, fit_cross, fit_split
from models.errors import AlphaUnattainable, GradientEvidenceUnavailable
from tests.models.anomaly.evidences import GRID, IMAGE, NAMES, evidence, reference, split, without_gradients


def test_the_smallest_alpha_is_named_and_accepted() -> None:
    for held_out in (99, 98, 700, 46):
        calibration = split(60, held_out, gradients=False)
        smallest = 1 / (held_out + 1)
        with pytest.raises(AlphaUnattainable) as caught:
            calibration.check_alpha(0.9 * smallest)
        assert caught.value.smallest == smallest
        named = float(re.findall(r"smallest attainable is (\S+)", caught.value.detail)[0])
        assert calibration.check_alpha(named) == named, "who asks for what the message names is served"
        with pytest.raises(AlphaUnattainable):
            calibration.judge(evidence(1, gradients=False), NAMES, IMAGE, 0.9 * smallest)
        assert calibration.check_alpha(None) == calibration.default_alpha == max(0.01, smallest)
        strange = evidence(1, gradients=False)
        strange.whole[:, 3:] += 1e3
        assert calibration.judge(strange, NAMES, IMAGE, named)[0].is_anomaly


def test_without_gradients_there_is_no_verdict_with_them() -> None:
    calibration = split(gradients=False)
    assert not calibration.has_gradients
    for refused in (
        lambda: calibration.ordered(gradients=True),
        lambda: calibration.check_alpha(None, gradients=True),
        lambda: calibration.judge(evidence(2), NAMES, IMAGE),
    ):
        with pytest.raises(GradientEvidenceUnavailable):
            refused()
    assert len(calibration.judge(evidence(2, gradients=False), NAMES, IMAGE)) == 2


@pytest.mark.parametrize("images", [4, 5, 6, 12, 13])  # folds of one, and around 10 images outside a fold
def test_few_images_give_every_fold_a_verdict_with_gradients_or_none(images: int) -> None:
    folds = (np.arange(images) % 5).astype(np.int8)
    calibration = fit_cross(reference(images, 1), folds, NAMES, GRID)
    some = evidence(3, 5)
    assert len(calibration.judge(without_gradients(some), NAMES, IMAGE)) == 3
    if calibration.has_gradients:
        assert len(calibration.judge(some, NAMES, IMAGE)) == 3
        assert images - math.ceil(images / 5) >= MIN_GRADIENT_IMAGES
    else:
        with pytest.raises(GradientEvidenceUnavailable):
            calibration.judge(some, NAMES, IMAGE)


def test_calibration_with_gradients_counts_the_images_that_have_gradients() -> None:
    held_out = reference(200, 2)
    assert held_out.gradients is not None
    calibration = fit_split(
        reference(300, 1), held_out.with_gradients(held_out.gradients[:49], np.arange(49)), NAMES, GRID
    )
    assert calibration.check_alpha(1 / 201) == 1 / 201
    with pytest.raises(AlphaUnattainable) as caught:
        calibration.check_alpha(1 / 201, gradients=True)
    assert caught.value.smallest == 1 / 50
    assert calibration.judge(evidence(1), NAMES, IMAGE)[0].alpha == 1 / 50
