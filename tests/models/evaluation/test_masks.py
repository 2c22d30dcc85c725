"""Evaluations with masks: figures of the places of defects, and what has no mask or no image is counted and named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport, Localisation
from snf_models.datasets import DatasetStore
from snf_models.errors import DatasetNotFound, DatasetUnfit
from snf_models.evaluation import evaluate as evaluate_module
from snf_models.evaluation.assemble import Subject
from snf_models.evaluation.evaluate import evaluate
from snf_models.evaluation.localisation_metrics import localise
from snf_models.evaluation.measure_localisation import reduced
from snf_models.evaluation.report import render_html
from snf_models.scorer import Scorer, load_model
from snf_runtime.images.codec import encode_png
from tests.models.datasets.upload_files import source, zipped
from tests.models.helpers import real_images
from tests.support.compiled_cache import compiled
from tests.support.trained import feature_artifact

NORMAL, STRANGE, UNPAIRED, EMPTY = 260, 24, 3, 2
DIGITS = real_images(NORMAL + STRANGE)


def stain(index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A digit with a square of noise, and the mask of the square."""
    random = np.random.default_rng(index)
    image, mask = DIGITS[NORMAL + index].copy(), np.zeros((28, 28), dtype=bool)
    top, left = random.integers(2, 16, 2)
    mask[top : top + 9, left : left + 9] = True
    image[0][mask] = random.integers(0, 256, 81)
    return image, mask


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")  # one bit a pixel
    return file.getvalue()


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Scorer:
    return load_model(feature_artifact(tmp_path_factory), options=compiled(backbones=backbones))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """Digits, digits with stains in the layout of MVTec AD, and their masks, of which some are missing or empty."""
    folder = tmp_path_factory.mktemp("home")
    store = DatasetStore(folder / "datasets")
    stained = [stain(index) for index in range(STRANGE)]
    images = {f"test/stain/{index:03d}.png": encode_png(image) for index, (image, _) in enumerate(stained)}
    masks = {f"truth/stain/{index:03d}_mask.png": mask_png(mask) for index, (_, mask) in enumerate(stained)}
    for index in range(UNPAIRED):
        del masks[f"truth/stain/{index:03d}_mask.png"]
    for index in range(UNPAIRED, UNPAIRED + EMPTY):
        masks[f"truth/stain/{index:03d}_mask.png"] = mask_png(np.zeros((28, 28), dtype=bool))
    masks["truth/other/999_mask.png"] = mask_png(stained[0][1])
    large = {name.replace("truth", "test").replace("_mask", ""): encode_png(DIGITS[index].repeat(2, 1).repeat(2, 2))
             for index, name in enumerate(masks)}  # fmt: skip
    normal = {f"good-{index:03d}.png": encode_png(DIGITS[index]) for index in range(NORMAL)}
    for name, files in (("digits", normal), ("stained", images), ("masks", masks), ("large", large)):
        store.create(name, [source(folder / "uploads", zipped(files))])
    return store


def subject(scorer: Scorer, store: DatasetStore, **parameters: object) -> Subject:
    chosen = EvaluationParameters.model_validate({"against": ["stained"], "alpha": 0.1, **parameters})
    return Subject(scorer, "parts:1", "digits", chosen, None, store)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the scores of finished sets."""
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def report(scorer: Scorer, store: DatasetStore, kept: Path) -> EvaluationReport:
    steps: list[tuple[int, int]] = []
    found = evaluate(
        subject(scorer, store, masks={"stained": "masks"}), lambda _, done, total: steps.append((done, total)), kept
    )
    assert steps[-1][0] == steps[-1][1], "all images of the progress are done at the end"
    return found


def entry(report: EvaluationReport) -> Localisation:
    found = report.sets[0].localisation
    assert found is not None
    return found


def test_the_figures_are_those_of_the_maps(report: EvaluationReport, scorer: Scorer, store: DatasetStore) -> None:
    found = entry(report)
    stained = [stain(index) for index in range(UNPAIRED + EMPTY, STRANGE)]
    maps = [one.anomaly.astype(np.float32) for one in scorer.heat_maps(np.stack([image for image, _ in stained]))]
    half = sorted(np.random.default_rng(0).permutation(NORMAL)[NORMAL // 2 :].tolist())
    normal = [one.anomaly.astype(np.float32) for one in scorer.heat_maps(DIGITS[half])]
    masks = [mask for _, mask in stained]
    expected = localise(normal, maps, masks)
    assert found.pixel_auroc == pytest.approx(expected.pixel_auroc, abs=1e-6)
    assert found.aupro == pytest.approx(expected.aupro, abs=1e-6)
    assert expected.aupimo is not None
    assert found.aupimo == pytest.approx(float(expected.aupimo.mean()), abs=1e-6)
    assert found.aupimo_found == pytest.approx(float((expected.aupimo >= 0.5).mean()))
    assert found.pixel_auroc > 0.8
    for rate in found.regions:
        limit = scorer.calibration.map_threshold(rate.alpha)
        if limit is None:
            assert (rate.hit, rate.false_alarms) == (None, None)
            continue
        assert rate.hit == np.mean([(one[mask] >= limit).any() for one, mask in zip(maps, masks, strict=True)])
        assert rate.false_alarms == np.mean([(one >= limit).any() for one in normal])
    assert found.regions[-1].hit


def test_no_defect_is_lost_in_a_reduced_mask() -> None:
    for row, column, place in ((0, 0, (0, 0)), (5, 3, (1, 1)), (9, 4, (2, 1)), (3, 10, (1, 2)), (9, 10, (2, 2))):
        mask = np.zeros((10, 11), dtype=bool)
        mask[row, column] = True
        small = reduced(mask, 3)
        assert small.shape == (3, 3)
        assert np.argwhere(small).tolist() == [list(place)]
        np.testing.assert_array_equal(reduced(mask, 1), mask)
    assert reduced(np.eye(2, 7, dtype=bool), 3).tolist() == [[True, False]]


def test_what_does_not_pair_is_counted_and_named(report: EvaluationReport) -> None:
    found = entry(report)
    assert (found.images, found.empty_masks, found.unpaired) == (STRANGE - UNPAIRED - EMPTY, EMPTY, UNPAIRED)
    assert found.unpaired_names == [f"test/stain/{index:03d}.png" for index in range(UNPAIRED)]
    assert (found.unused_masks, found.unused_names) == (1, ["truth/other/999_mask.png"])
    assert any("3 images without a mask and 2 with an empty one" in note for note in report.notes)
    page = render_html(report)
    assert "AUPIMO" in page
    assert "3 images without a mask, 2 with an empty one" in page


def test_reasons_of_the_gallery_have_their_box(report: EvaluationReport) -> None:
    boxes = [(one.box, one.reason) for one in report.sets[0].gallery.most if one.box is not None]
    assert boxes
    for (left, top, right, bottom), reason in boxes:
        assert f"rows {top}-{bottom - 1}, columns {left}-{right - 1}" in (reason or "")


def test_a_finished_set_is_not_measured_again(
    report: EvaluationReport, scorer: Scorer, store: DatasetStore, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_module, "normal_maps", lambda *_: pytest.fail("the maps are computed again"))
    again = evaluate(subject(scorer, store, masks={"stained": "masks"}), folder=kept)
    assert entry(again) == entry(report)


def test_without_masks_there_are_no_such_figures(scorer: Scorer, store: DatasetStore) -> None:
    assert evaluate(subject(scorer, store)).sets[0].localisation is None


def test_masks_that_cannot_be_used_are_refused(scorer: Scorer, store: DatasetStore) -> None:
    with pytest.raises(ValidationError, match="not among the datasets in `against`"):
        subject(scorer, store, masks={"others": "masks"})
    with pytest.raises(DatasetNotFound, match="'nothing' is none; there are: digits, large, masks, stained"):
        evaluate(subject(scorer, store, masks={"stained": "nothing"}))
    with pytest.raises(DatasetUnfit, match="no image of stained has a mask in digits"):
        evaluate(subject(scorer, store, masks={"stained": "digits"}, images=40))
    with pytest.raises(DatasetUnfit, match=r"as large as its image, 56x56 pixels .* got 28x28"):
        evaluate(subject(scorer, store, against=["large"], masks={"large": "masks"}, adapt=True))
