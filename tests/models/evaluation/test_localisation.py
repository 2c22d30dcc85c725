"""Evaluations with masks: figures of the places of defects, and what has no mask or no image is counted and named."""

import io
import math
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
from snf_models.evaluation.checks import pair_masks
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.evaluation.localisation import PIMO_RANGE, PRO_LIMIT, aupimo, localise, reduced
from snf_models.evaluation.report import render_html
from snf_models.scorer import Scorer
from snf_runtime.images.codec import encode_png
from tests.models.datasets.upload_files import source, zipped
from tests.models.helpers import real_images

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
def scorer(features: Scorer) -> Scorer:
    return features


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


Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


def planted(normal: int, strange: int, side: int, levels: int | None, seed: int = 0) -> tuple[Maps, Maps, Masks]:
    """Random maps, with one or two squares in each anomalous one whose values tend to be larger."""
    generator = np.random.default_rng(seed)
    maps = generator.normal(size=(normal + strange, side, side))
    masks = np.zeros((strange, side, side), dtype=bool)
    for index, mask in enumerate(masks):
        for top, left in generator.integers(0, side - 5, (1 + index % 2, 2)):
            mask[top : top + 3 + index % 3, left : left + 3] = True
    maps[normal:] += 1.5 * masks
    if levels is not None:  # equal values
        maps = np.round(maps * levels) / levels
    values = maps.astype(np.float32)
    return list(values[:normal]), list(values[normal:]), list(masks)


def defects_of(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The defects of a mask, filled one by one from their pixels."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        todo, part = [left.pop()], np.zeros_like(mask)
        while todo:
            row, column = todo.pop()
            part[row, column] = True
            for near in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
        found.append(part)
    return found


def area(x: list[float], y: list[float], limit: float) -> float:
    """The area under straight lines between points, up to a limit of x."""
    total = 0.0
    for (x0, y0), (x1, y1) in zip(zip(x, y, strict=True), zip(x[1:], y[1:], strict=True), strict=False):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > x0 else y1
        total += (end - x0) * (y0 + y_end) / 2
    return total


@pytest.mark.parametrize("levels", [None, 2])
def test_auroc_and_aupro_are_those_of_all_thresholds(levels: int | None) -> None:
    normal, maps, masks = planted(4, 5, 12, levels)
    found = localise(normal, maps, masks)
    sound = np.concatenate([*(one.ravel() for one in normal), *(m[~k] for m, k in zip(maps, masks, strict=True))])
    defects = [of_image[part] for of_image, mask in zip(maps, masks, strict=True) for part in defects_of(mask)]
    pixels = np.concatenate([m[k] for m, k in zip(maps, masks, strict=True)])
    thresholds = sorted({float(value) for value in np.concatenate([sound, pixels])}, reverse=True)
    rates = [0.0, *(float((sound >= limit).mean()) for limit in thresholds)]
    overlaps = [0.0, *(float(np.mean([(values >= limit).mean() for values in defects])) for limit in thresholds)]
    shares = [0.0, *(float((pixels >= limit).mean()) for limit in thresholds)]
    assert found.pixel_auroc == pytest.approx(area(rates, shares, 1.0), abs=1e-12)
    assert found.aupro == pytest.approx(area(rates, overlaps, PRO_LIMIT) / PRO_LIMIT, abs=1e-12)
    assert found.aupimo is None, "576 pixels have no rate of 1e-5"


@pytest.mark.parametrize("levels", [None, 3])
def test_aupimo_is_that_of_all_thresholds(levels: int | None) -> None:
    normal, maps, masks = planted(4, 5, 12, levels, seed=1)
    low, high = 0.01, 0.2
    found = aupimo(normal, maps, masks, (low, high))
    assert found is not None
    sound = np.concatenate([one.ravel() for one in normal])
    for result, of_image, mask in zip(found, maps, masks, strict=True):
        inside = of_image[mask]
        thresholds = sorted({float(value) for value in np.concatenate([sound, inside])}, reverse=True)
        points = [(float((sound >= limit).mean()), float((inside >= limit).mean())) for limit in thresholds]
        points = [point for point in points if point[0] > 0]
        # Fine steps of the logarithm, each with the overlap on the straight line between its neighbours.
        steps = np.linspace(math.log(low), math.log(high), 200_001)
        middle = (steps[1:] + steps[:-1]) / 2
        rates, shares = np.array(points).T
        assert float(np.interp(middle, np.log(rates), shares).mean()) == pytest.approx(float(result), abs=2e-4)
    assert aupimo(normal, maps, masks) is None
    assert PIMO_RANGE == (1e-5, 1e-4)


def test_perfect_and_useless_maps() -> None:
    mask = np.zeros((400, 400), dtype=bool)
    mask[10:20, 10:30] = True
    normal = [np.random.default_rng(0).random((400, 400)).astype(np.float32)]
    perfect = localise(normal, [normal[0] + 2 * mask], [mask])
    assert (perfect.pixel_auroc, perfect.aupro) == pytest.approx((1.0, 1.0))
    assert perfect.aupimo.tolist() == pytest.approx([1.0])
    useless = localise(normal, [normal[0] - 2 * mask], [mask])
    assert (useless.pixel_auroc, useless.aupro) == (0.0, 0.0)
    assert useless.aupimo.tolist() == [0.0]
    with pytest.raises(ValueError, match="pixels of defects"):
        localise(normal, normal, [np.zeros_like(mask)])


def test_masks_pair_by_name_and_innermost_folder() -> None:
    images = ["test/good/000.png", "test/hole/000.png", "test/hole/001.png", "test/cut/000.png", "test/cut/004.png"]
    masks = ["truth/hole/000_mask.png", "truth/hole/001_mask.png", "truth/cut/000_mask.png", "truth/cut/009_mask.png"]
    pairs = pair_masks(images, masks)
    assert pairs.masks == {1: masks[0], 2: masks[1], 3: masks[2]}
    assert pairs.unpaired == (images[0], images[4])
    assert pairs.unused == (masks[3],)
    # Without folders the name alone decides, whatever its ending.
    assert pair_masks(["a.jpg", "b.png"], ["b.bmp", "a_mask.png"]).masks == {0: "a_mask.png", 1: "b.bmp"}


def test_what_is_not_unique_is_no_pair() -> None:
    # Two masks for an image, and two images for a mask.
    assert pair_masks(["a.png"], ["x/a.png", "y/a.png"]).masks == {}
    twice = pair_masks(["x/a.png", "y/a.png"], ["a.png"])
    assert (twice.masks, twice.unpaired, twice.unused) == ({}, ("x/a.png", "y/a.png"), ("a.png",))
    # The image with the same folder wins.
    assert pair_masks(["good/a.png", "hole/a.png"], ["hole/a.png"]).masks == {1: "hole/a.png"}
