"""Limits of real models, without a service: which images serve, when no limit can be stated, and where it is kept."""

import re
from pathlib import Path

import numpy as np
import pytest

from snf_client.schemas.limits import LimitParameters, LimitRecord
from snf_models.artifacts.manifest import FeatureFitRecord, GridChoice
from snf_models.datasets import load_dataset
from snf_models.errors import AlphaUnattainable, ArtifactError, DatasetUnfit, LimitNotFound
from snf_models.limits.card import card_text, limit_section
from snf_models.limits.chart import limit_chart
from snf_models.limits.defects import Defect, add_defect, defect_rng
from snf_models.limits.good_images import GoodImages, good_images
from snf_models.limits.measure import measure_limits
from snf_models.registry.calibrations import LimitStore
from snf_models.registry.registry import ZOO, Registry
from snf_models.scorer import Scorer, load_model
from tests.support.compiled_cache import compiled

MODEL = "mnist-snf-glow"
FEW = LimitParameters(shapes=("missing-part",), images=40)


@pytest.fixture(scope="module")
def digits() -> Scorer:
    return load_model(ZOO / MODEL / "1", options=compiled())


@pytest.fixture(scope="module")
def good(digits: Scorer) -> GoodImages:
    return good_images("mnist-mini", digits.manifest, digits.calibration_summary, 40)


@pytest.fixture(scope="module")
def record(digits: Scorer, good: GoodImages) -> LimitRecord:
    return measure_limits(digits, good, FEW, calibration=0)


def test_the_counts_are_those_of_the_p_values_of_each_image(
    digits: Scorer, good: GoodImages, record: LimitRecord
) -> None:
    [curve] = record.curves
    cell = curve.cells[-1]
    defect = Defect("missing-part", cell.size)
    # One after the other and in another order: nothing depends on a batch.
    found = 0
    for index in reversed(range(40)):
        damaged, _ = add_defect(good.pixels[:][index], defect, defect_rng(0, defect, index))
        found += digits.anomaly(digits.score(damaged[None])[0]).p_value <= 0.01
    assert (cell.found, cell.images) == (found, 40)
    assert (record.alpha, record.undamaged.images, record.sizes) == (0.01, 40, (2, 3, 4, 6, 8, 12))
    assert curve.limit is not None


def test_the_first_report_counts_the_images_of_finished_sizes_only(
    digits: Scorer, good: GoodImages, tmp_path: Path
) -> None:
    class Stopped(Exception):
        """The measurement is stopped after a size was scored, and before its count is stored."""

    def first_report(stop_after: int) -> int:
        reports: list[int] = []

        def progress(_label: str, done: int, _total: int) -> None:
            reports.append(done)
            if done > stop_after:
                raise Stopped

        with pytest.raises(Stopped):
            measure_limits(digits, good, FEW, progress=progress, folder=tmp_path)
        return reports[0]

    assert [first_report(stop_after) for stop_after in (0, 40, 80, 80)] == [0, 0, 40, 80]


def test_too_few_images_give_no_limit(digits: Scorer, good: GoodImages) -> None:
    few = GoodImages(good.dataset, good.part, good.pixels[:28])
    progress: list[tuple[str, int, int]] = []
    measured = measure_limits(digits, few, FEW, progress=lambda *step: progress.append(step))
    assert progress[-1] == ("without defects", 28, 28)
    assert measured.not_determinable is not None
    assert measured.not_determinable.startswith("mnist-mini has 28 good images for it, at least 29 are needed")
    assert (measured.curves, measured.undamaged.images) == ((), 28)
    assert "not determinable" in limit_chart(measured)
    assert "**Not determinable**: mnist-mini has 28" in limit_section(1, measured, 0)


def test_images_unlike_those_of_the_calibration_give_no_limit(digits: Scorer, good: GoodImages) -> None:
    # Every negative is flagged, whatever is drawn into it.
    measured = measure_limits(digits, GoodImages("negatives", good.part, 255 - good.pixels[:]), FEW)
    assert re.match(
        r"40 of 40 images of negatives are flagged without a defect, at most \d ", measured.not_determinable or ""
    )
    assert measured.curves == ()


def test_an_alpha_below_the_smallest_p_and_another_shape_are_refused(digits: Scorer, good: GoodImages) -> None:
    with pytest.raises(AlphaUnattainable):
        measure_limits(digits, good, LimitParameters(alpha=1e-5))
    with pytest.raises(DatasetUnfit, match="the images of small are 1x26x26, this model takes 1x28x28"):
        measure_limits(digits, GoodImages("small", good.part, good.pixels[:][:, :, 2:, 2:]))


def test_of_its_own_dataset_only_the_statistics_part_serves(scorer: Scorer) -> None:
    dataset = load_dataset("mnist-mini", None)
    own = good_images("mnist-mini", scorer.manifest, scorer.calibration_summary, 200)
    some = good_images("mnist-mini", scorer.manifest, scorer.calibration_summary, 20)
    assert (own.part, len(some.pixels)) == ("statistics part", 20)
    assert sorted(image.tobytes() for image in own.pixels[:]) == sorted(image.tobytes() for image in dataset.statistics)


def test_other_datasets_serve_with_all_images(digits: Scorer, good: GoodImages) -> None:
    everything = good_images("mnist-mini", digits.manifest, digits.calibration_summary, 10_000)
    assert len(everything.pixels) == 600
    assert (good.part, len(good.pixels)) == (everything.part, 40)


def test_datasets_that_the_model_has_used_up_are_refused(scorer: Scorer) -> None:
    manifest, summary = scorer.manifest, scorer.calibration_summary
    with pytest.raises(DatasetUnfit, match="ranks among all images of mnist-mini that training left out"):
        good_images("mnist-mini", manifest, summary.model_copy(update={"folds": 5}), 40)
    choice = GridChoice(grid=1, shrinkage=0, mean_shrinkage=0, held_out_nats=0)
    fit = FeatureFitRecord(backbone="b", grids=(choice,), pooled=choice, fits=6)
    whole = manifest.model_copy(update={"training": manifest.training.model_copy(update={"feature_fit": fit})})
    with pytest.raises(DatasetUnfit, match="was fitted to all images of mnist-mini"):
        good_images("mnist-mini", whole, summary, 40)
    changed = manifest.training.model_copy(update={"dataset_digest": "0" * 64})
    with pytest.raises(DatasetUnfit, match="have changed since"):
        good_images(
            "mnist-mini",
            manifest.model_copy(update={"training": changed}),
            summary.model_copy(update={"dataset_digest": "0" * 64}),
            40,
        )


def test_limits_are_kept_beside_the_model_and_stated_in_its_card(tmp_path: Path, record: LimitRecord) -> None:
    registry = Registry(tmp_path)
    limits = registry.limits(MODEL, 1)
    assert "## Detection limit" not in card_text(registry, MODEL, 1)
    later = record.model_copy(update={"calibration": 3, "alpha": 0.05})
    assert (limits.publish(record), limits.publish(later)) == (1, 2)
    assert (limits.numbers(), limits.record(1)) == ([1, 2], record)
    assert limits.best(0) == (1, record)
    card = card_text(registry, MODEL, 1)
    [curve] = record.curves
    assert f"| missing part | {curve.limit} pixels | " in card
    assert "is in use now" not in card
    assert "This limit is of calibration 3; calibration 1 is in use now" in limit_section(2, later, 1)
    with pytest.raises(LimitNotFound, match=re.escape("has no detection limit 9; it has: 1, 2")):
        limits.record(9)
    (limits.folder / "1" / "limit.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"mnist-snf-glow/limits/1/1/limit\.json is not a valid detection limit"):
        limits.record(1)
    assert list(LimitStore(tmp_path, MODEL, 1).readable()) == [2]


def test_limits_go_with_their_version(tmp_path: Path, artifact: Path, record: LimitRecord) -> None:
    registry = Registry(tmp_path, zoo=tmp_path / "no-zoo")
    registry.publish(artifact, "digits")
    limits = registry.limits("digits", 1)
    limits.publish(record)
    registry.remove_model("digits")
    assert not limits.folder.exists()
    assert registry.names() == []


def test_the_picture_loads_nothing_and_says_the_limits(record: LimitRecord) -> None:
    chart = limit_chart(record)
    assert chart.startswith("<svg ")
    assert f"missing part: {record.curves[0].limit} pixels" in chart
    assert "href" not in chart
    assert chart.count('class="limit"') == 1
    assert np.char.count(chart, "<circle") == len(record.curves[0].cells)
