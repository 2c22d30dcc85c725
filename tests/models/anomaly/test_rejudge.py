"""Verdicts from stored evidence are those of scoring under the other calibration, also with pixels and features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from snf_models.anomaly.reference_images import reference_of
from snf_models.anomaly.rejudge import StoredEvidence, rejudge
from snf_models.datasets import Dataset
from snf_models.errors import ImageError
from snf_models.registry.calibrations import calibration_bytes
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from tests.models.helpers import real_images
from tests.support.backbones import backbone_folder
from tests.support.compiled_cache import compiled
from tests.support.trained import barely_trained, hybrid_artifact


@pytest.mark.parametrize("make", [barely_trained, hybrid_artifact])
def test_they_are_those_of_scoring(
    make: Callable[[pytest.TempPathFactory], Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    engine = compiled(backbones=backbone_folder(tmp_path_factory))
    registry = Registry(tmp_path / "registry", zoo=tmp_path / "none")
    version = registry.publish(make(tmp_path_factory), "digits", promote=True)
    scorer = load_model(version.path, options=engine)
    images = np.maximum(real_images(50), np.roll(real_images(50), 1, axis=3))
    dataset = Dataset("thick", images[:20], images[20:30], images[30:], test=images[:0], digest="thick")
    calibration, summary = scorer.calibrate(reference_of(dataset, scorer.manifest), lambda *_: None)
    registry.calibrations("digits", 1).publish(calibration_bytes(calibration), summary)
    other = registry.resolve("digits")
    other_scorer = load_model(other.path, other.calibration_path, engine)
    digits = real_images(150)[100:]
    seen = np.concatenate([digits[:25], np.maximum(digits[25:], np.roll(digits[25:], 1, axis=3)), 255 - digits[:3]])
    alphas = [None if number % 2 else 0.4 for number in range(len(seen))]
    first = scorer.detect(seen, alphas)
    stored = []
    for judged, alpha in zip(first, alphas, strict=True):
        assert not isinstance(judged, ImageError)
        assert judged.likelihood.evidence is not None
        stored.append(StoredEvidence.of(judged.likelihood.evidence, alpha, scorer.density.precision))
    for of_scoring, scored in ((scorer, first), (other_scorer, other_scorer.detect(seen, alphas))):
        flagged = [not isinstance(one, ImageError) and one.verdict.is_anomaly for one in scored]
        assert rejudge(of_scoring.calibration, stored) == flagged
    assert rejudge(scorer.calibration, stored) != rejudge(other_scorer.calibration, stored)


def test_no_images_have_no_verdicts(scorer: Scorer) -> None:
    assert rejudge(scorer.calibration, []) == []
