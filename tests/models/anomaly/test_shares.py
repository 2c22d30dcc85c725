"""Shares of the densities of the whole image: those of channels count most where the images have colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.artifacts.files import CALIBRATION
from snf_models.errors import ArtifactError
from snf_models.registry.calibrations import load_calibration, save_calibration
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import Calibration
from tests.models.anomaly import evidences


def energies_of(*channels: int) -> list[str]:
    """The names of the energies of levels with so many channels."""
    return [f"energy-{level}-{one}" for level, count in enumerate(channels, 1) for one in range(1, count + 1)]


GREY, DEEP_GREY, COLOUR, FLAT_COLOUR = (energies_of(*levels) for levels in ((2, 8), (2, 4, 16), (6, 12), (12,)))
"""The energies of Glows over grey images, of two levels and of three, and over colour images, of two and of one."""


@pytest.mark.parametrize(
    ("energies", "shares", "images"),
    [
        (GREY, [2, 2, 2, 1], 100),
        (GREY, [2, 2, 2, 1], 2000),
        (DEEP_GREY, [2, 2, 2, 1], 100),
        (COLOUR, [1, 1, 2, 2], 100),
        (FLAT_COLOUR, [1, 1, 2, 2], 100),
    ],
    ids=["grey", "many grey", "deep grey", "colour", "flat colour"],
)
def test_surprises_are_added_by_their_shares(energies: list[str], shares: list[int], images: int) -> None:
    evidence = evidences.evidence(images, 1)
    channels = np.random.default_rng(2).normal(size=(images, len(energies)))
    statistic = fit_statistic(replace(evidence, channels=channels), (*evidences.NAMES, *energies), evidences.GRID)
    assert statistic.whole is not None
    new = statistic.statistics(
        replace(
            evidences.evidence(30, 3),
            channels=np.random.default_rng(4).normal(size=(30, len(energies))),
        )
    )
    first, second, third, fourth = (
        share * view.tail.surprise(view.density.surprisal(new[:, view.columns]))
        for share, view in zip(shares, statistic.whole.views, strict=True)
    )
    expected = statistic.whole.joint.surprise(first + second + third + fourth)
    np.testing.assert_allclose(statistic.whole.surprise(new), expected, rtol=1e-12)


def test_a_model_of_grey_images_keeps_its_shares_in_the_file(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    calibration = scorer.calibration
    assert isinstance(calibration, Calibration)
    save_calibration(calibration, path)
    arrays = load_file(path)
    assert arrays["folds.0.statistic.whole.shares"].tolist() == [2, 2, 2, 1]
    for broken in (None, np.ones(3), np.ones((4, 1)), np.ones(())):
        kept = {name: array for name, array in arrays.items() if not name.endswith(".shares")}
        save_file(kept if broken is None else kept | {"folds.0.statistic.whole.shares": broken}, path)
        with pytest.raises(ArtifactError, match="expected 3 densities of the whole image, or 4 with 4 shares, got 4"):
            load_calibration(path)
