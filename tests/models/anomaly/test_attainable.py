"""What a calibration can give: its smallest alpha, and verdicts of few images."""

import re

import numpy as np
import pytest

from snf_models.anomaly.calibrate import fit_cross
from snf_models.errors import AlphaUnattainable
from tests.models.anomaly.evidences import GRID, IMAGE, NAMES, evidence, reference, split


def test_the_smallest_alpha_is_named_and_accepted() -> None:
    for held_out in (99, 98, 700, 46):
        calibration = split(60, held_out)
        smallest = 1 / (held_out + 1)
        with pytest.raises(AlphaUnattainable) as caught:
            calibration.check_alpha(0.9 * smallest)
        assert caught.value.smallest == smallest
        named = float(re.findall(r"smallest attainable is (\S+)", caught.value.detail)[0])
        assert calibration.check_alpha(named) == named, "who asks for what the message names is served"
        with pytest.raises(AlphaUnattainable):
            calibration.judge(evidence(1), NAMES, IMAGE, 0.9 * smallest)
        assert calibration.check_alpha(None) == calibration.default_alpha == max(0.01, smallest)
        strange = evidence(1)
        strange.whole[:, 3:] += 1e3
        assert calibration.judge(strange, NAMES, IMAGE, named)[0].is_anomaly


@pytest.mark.parametrize("images", [4, 5, 6])
def test_folds_of_single_images_give_verdicts(images: int) -> None:
    calibration = fit_cross(reference(images, 1), (np.arange(images) % 5).astype(np.int8), NAMES, GRID)
    assert len(calibration.judge(evidence(3, 5), NAMES, IMAGE)) == 3
