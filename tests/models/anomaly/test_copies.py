"""Copies among calibration images: exact and near copies of real images are found, and a group gives one rank."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snf_models.anomaly import reference_images as copies
from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.reference_images import ReferenceImages, first_copies, one_fold_for_copies, reference_of
from snf_models.artifacts.manifest import CalibrationSummary
from snf_models.datasets import Dataset
from snf_models.errors import DatasetUnfit
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.evidence import Evidence
from tests.models.helpers import real_images

Images = NDArray[np.uint8]


def saved_again(image: Images, quality: int = 90) -> Images:
    """The image ``(1, H, W)`` as a JPEG file shows it."""
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))[None]


def calibrated(scorer: Scorer, statistics: Images, calibration: Images) -> tuple[Calibration, CalibrationSummary]:
    dataset = Dataset("line", statistics, calibration[:1], calibration[1:], test=calibration[:0], digest="line")
    return calibrate(scorer.density, reference_of(dataset, scorer.manifest), scorer.pinned[0], lambda *_: None)


def test_different_images_are_no_copies() -> None:
    images = real_images(400)
    np.testing.assert_array_equal(first_copies(images[:250], images[250:]), np.arange(400))


def test_copies_belong_to_the_first_image_of_their_group() -> None:
    images = real_images(60)
    again = np.stack([saved_again(image) for image in images])
    darker = (images * 0.9).astype(np.uint8)
    first = first_copies(images, images[:20], again, darker)
    np.testing.assert_array_equal(first, np.concatenate([np.arange(60), np.arange(20), np.arange(60), np.arange(60)]))
    large = [np.repeat(np.repeat(image, 3, 1), 2, 2) for image in images]
    stretched = [np.repeat(image, 2, 2) for image in large[:5]]
    np.testing.assert_array_equal(first_copies(large, stretched)[60:], np.arange(5))


def test_flat_images_are_copies_only_where_they_are_equal() -> None:
    flat = np.stack([np.full((1, 28, 28), level, np.uint8) for level in (10, 200, 10)])
    np.testing.assert_array_equal(first_copies(flat, real_images(20))[:3], [0, 1, 0])
    assert len(first_copies(flat[:0], flat[:0])) == 0


def test_among_many_images_only_equal_pixels_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    images = real_images(20)
    again = np.stack([saved_again(image) for image in images])
    monkeypatch.setattr(copies, "MAX_COMPARED", 44)
    np.testing.assert_array_equal(first_copies(images, images[:5], again), [*range(20), *range(5), *range(25, 45)])


def test_folds_keep_copies_together() -> None:
    folds, first = np.array([0, 1, 2, 1, 0], dtype=np.int8), np.array([0, 1, 0, 1, 4])
    np.testing.assert_array_equal(one_fold_for_copies(folds, first), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(
        one_fold_for_copies(np.array([2, 1, 0], dtype=np.int8), np.array([0, 1, 1])), [1, 0, 0]
    )
    np.testing.assert_array_equal(one_fold_for_copies(folds, np.zeros(5, dtype=np.intp)), folds)


@pytest.mark.parametrize("near", [False, True])
def test_a_group_of_copies_gives_one_rank(scorer: Scorer, near: bool) -> None:
    images = real_images(100)
    statistics, different = images[:40], images[40:52]
    copies = np.stack([saved_again(image, 95) for image in different]) if near else different
    calibration, summary = calibrated(scorer, statistics, np.concatenate([different, copies, copies, copies]))
    alone, of_alone = calibrated(scorer, statistics, different)
    assert (summary.calibration_images, summary.copies, summary.smallest_p) == (12, 36, 1 / 13)
    assert (of_alone.calibration_images, of_alone.copies) == (12, 0)
    assert calibration.map_maxima is not None
    assert len(calibration.map_maxima) == 12
    evidence = Evidence.join([score.evidence for score in scorer.score(images[52:])])
    p = calibration.p_values(evidence)
    np.testing.assert_array_equal(p, alone.p_values(evidence))
    own = scorer.score(different)
    values = calibration.folds[0].statistic(Evidence.join([score.evidence for score in own]))
    new = calibration.folds[0].statistic(evidence)
    expected = [(1 + sum(round(value, 6) >= round(t, 6) for value in values)) / 13 for t in new]
    np.testing.assert_allclose(p, expected)


def test_a_copy_of_an_image_that_statistics_are_fitted_to_gives_no_rank(scorer: Scorer) -> None:
    images = real_images(60)
    calibration, summary = calibrated(scorer, images[:40], np.concatenate([images[:5], images[40:60]]))
    assert (summary.calibration_images, summary.copies, calibration.images) == (20, 5, 20)
    with pytest.raises(DatasetUnfit, match="all calibration images of line are copies"):
        calibrated(scorer, images[:40], images[:30])


def test_copies_in_several_folds_are_ranked_once_by_a_fit_without_them(scorer: Scorer) -> None:
    images = np.concatenate([real_images(40), real_images(10)])
    folds = (np.arange(50) % 5).astype(np.int8)
    folds[40:] = (folds[40:] + 1) % 5
    reference = ReferenceImages("line", "line", images, images[:0], folds)
    calibration, summary = calibrate(scorer.density, reference, scorer.pinned[0], lambda *_: None)
    assert (summary.calibration_images, summary.copies, summary.folds) == (40, 10, 5)
    assert [len(fold.ordered) for fold in calibration.folds] == [8] * 5
    assert calibration.map_maxima is not None
    moved = np.concatenate([folds[:40], folds[:10]])
    expected, _ = calibrate(
        scorer.density, ReferenceImages("line", "line", images, images[:0], moved), scorer.pinned[0], lambda *_: None
    )
    for found, wanted in zip(calibration.folds, expected.folds, strict=True):
        np.testing.assert_array_equal(found.ordered, wanted.ordered)
