"""Limits of real models, without a service: which images serve, when no limit can be stated, and where it is kept."""

import re
from math import comb
from pathlib import Path

import numpy as np
import pytest

from snf_client.schemas.limits import SHAPES, LimitParameters, LimitRecord, Shape
from snf_models.anomaly.exchangeability import clopper_pearson
from snf_models.artifacts.manifest import FeatureFitRecord, GridChoice
from snf_models.datasets import load_dataset
from snf_models.errors import AlphaUnattainable, ArtifactError, DatasetUnfit, LimitNotFound
from snf_models.limits.card import card_text, limit_chart, limit_section
from snf_models.limits.good_images import GoodImages, good_images
from snf_models.limits.measure import (
    GRADED,
    Defect,
    add_defect,
    defect_kinds,
    defect_rng,
    defect_sizes,
    limit_cell,
    limit_curve,
    measure_limits,
    undamaged_images,
)
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
        found += digits.verdicts(digits.score(damaged[None]))[0].p_value <= 0.01
    assert (cell.found, cell.images) == (found, 40)
    assert (record.alpha, record.undamaged.images, record.sizes) == (0.01, 40, (2, 3, 4, 6, 8, 12))
    assert curve.limit is not None
    # Smaller sizes are left out once hardly half are found.
    assert len(curve.cells) < len(record.sizes)
    assert [cell.upper < 0.5 for cell in curve.cells] == [True, *[False] * (len(curve.cells) - 1)]


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


SIDE = 40
AREAS = {"scratch": 12 * 1.5, "spot": np.pi * 36, "hole": np.pi * 36, "missing-part": 144.0}


def grey_image(channels: int = 3) -> np.ndarray:
    """An image of middle grey levels, all different enough that no defect leaves a pixel by chance."""
    levels = np.random.default_rng(7).integers(90, 160, (channels, SIDE, SIDE))
    return levels.astype(np.uint8)


def injected(image: np.ndarray, defect: Defect, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return add_defect(image, defect, defect_rng(0, defect, index))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", defect_sizes(SIDE, SIDE))
def test_a_defect_changes_its_mask_and_nothing_else(shape: Shape, size: int) -> None:
    image = grey_image()
    before = image.copy()
    damaged, mask = injected(image, Defect(shape, size, 64 if shape in GRADED else None))

    assert np.array_equal(image, before)
    assert damaged.dtype == np.uint8
    assert np.array_equal(damaged[:, ~mask], image[:, ~mask])
    # A pixel that is hardly covered may keep its level after rounding.
    assert (damaged[:, mask] != image[:, mask]).any(0).mean() > 0.8
    rows, columns = np.nonzero(mask)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    assert extent <= (2 * size - 1 if shape == "stain" else size)


@pytest.mark.parametrize("shape", ["spot", "scratch"])
@pytest.mark.parametrize("contrast", [32, 128])
def test_the_change_is_the_contrast_times_the_covered_area(shape: Shape, contrast: int) -> None:
    flat = np.full((1, SIDE, SIDE), 128, np.uint8)
    damaged, _ = injected(flat, Defect(shape, 12, contrast))
    change = damaged.astype(int) - 128

    assert abs(change).max() in {contrast, contrast - 1}
    assert len(np.unique(np.sign(change[change != 0]))) == 1
    assert abs(change).sum() / contrast == pytest.approx(AREAS[shape], rel=0.08)


def test_a_stain_has_half_of_its_contrast_at_its_radius() -> None:
    flat = np.full((1, SIDE, SIDE), 128, np.uint8)
    damaged, mask = injected(flat, Defect("stain", 12, 100))
    change = np.abs(damaged[0].astype(int) - 128)
    row, column = np.unravel_index(change.argmax(), change.shape)

    assert change.max() == 100
    assert change[row, column + 6] == pytest.approx(50, abs=5)
    assert change[mask].min() < 5


def test_a_hole_is_black_and_a_missing_part_has_the_mean_around_it() -> None:
    image = grey_image()
    holed, hole = injected(image, Defect("hole", 12))
    taken = (image.astype(int) - holed).sum() / image[:, hole].mean() / len(image)
    assert taken == pytest.approx(AREAS["hole"], rel=0.08)
    assert (holed[:, hole] == 0).mean() > 0.6
    patched, square = injected(image, Defect("missing-part", 12))
    rows, columns = np.nonzero(square)
    top, left = rows.min(), columns.min()
    assert square.sum() == AREAS["missing-part"]
    ring = np.zeros_like(square)
    ring[max(top - 2, 0) : top + 14, max(left - 2, 0) : left + 14] = True
    expected = image[:, ring & ~square].mean(1)
    assert np.abs(patched[:, square] - expected[:, None]).max() <= 0.5


@pytest.mark.parametrize(("level", "sign"), [(0, 1), (40, 1), (215, -1), (255, -1)])
def test_the_sign_is_turned_where_clipping_would_hide_the_defect(level: int, sign: int) -> None:
    flat = np.full((1, SIDE, SIDE), level, np.uint8)
    for index in range(10):
        damaged, _ = injected(flat, Defect("spot", 8, 128), index)
        change = damaged.astype(int) - level
        assert np.abs(change).max() == 128
        assert np.sign(change[change != 0]).tolist() == [sign] * int((change != 0).sum())


def test_defects_lie_on_the_bright_part() -> None:
    image = np.zeros((1, SIDE, SIDE), np.uint8)
    image[:, 10:30, 10:30] = 120
    for index in range(10):
        _, mask = injected(image, Defect("spot", 6, 64), index)
        assert mask[10:30, 10:30].sum() / mask.sum() > 0.2


def test_a_seed_gives_the_same_defect_in_any_order() -> None:
    image = grey_image()
    spot, scratch = Defect("spot", 6, 64), Defect("scratch", 6, 64)
    first = [injected(image, defect, index)[0] for defect in (spot, scratch) for index in (0, 1)]
    again = [injected(image, defect, index)[0] for defect in (scratch, spot) for index in (1, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert not np.array_equal(first[0], first[1])


def test_sizes_and_kinds() -> None:
    assert defect_sizes(28, 28) == (2, 3, 4, 6, 8, 12)
    assert defect_sizes(64, 300) == (2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert defect_kinds(("hole", "spot"), (64, 32)) == [("hole", None), ("spot", 32), ("spot", 64)]
    with pytest.raises(ValueError, match="expected a contrast for a spot"):
        injected(grey_image(), Defect("spot", 4))


def at_least(found: int, images: int, share: float) -> float:
    """Probability of at least ``found`` of ``images``, summed term by term."""
    return sum(comb(images, k) * share**k * (1 - share) ** (images - k) for k in range(found, images + 1))


@pytest.mark.parametrize(("found", "images"), [(1, 29), (28, 30), (29, 29), (90, 100), (150, 200)])
def test_bounds_are_the_shares_at_which_a_count_becomes_unlikely(found: int, images: int) -> None:
    lower, upper = clopper_pearson(found, images)
    assert at_least(found, images, lower) == pytest.approx(0.05)
    if found < images:
        assert 1 - at_least(found + 1, images, upper) == pytest.approx(0.05)
    else:
        assert upper == 1


def test_no_and_all_found() -> None:
    assert clopper_pearson(0, 20) == (0, pytest.approx(1 - 0.05 ** (1 / 20)))
    assert clopper_pearson(29, 29)[0] == pytest.approx(0.05 ** (1 / 29)) == pytest.approx(0.90185, abs=1e-5)
    assert clopper_pearson(28, 28)[0] < 0.9


def test_the_limit_is_the_smallest_size_from_which_on_all_bounds_reach_90_percent() -> None:
    # 94 of 100 have a bound of 0.8854, 95 of 100 one of 0.8977, 96 of 100 one of 0.9109.
    found = {2: 100, 3: 95, 4: 96, 6: 100, 8: 96}
    curve = limit_curve("spot", 64, [limit_cell(size, count, 100) for size, count in found.items()])
    assert curve.limit == 4
    assert curve.lower == pytest.approx(0.9109, abs=1e-4)
    assert [cell.size for cell in curve.cells] == [2, 3, 4, 6, 8]
    assert curve.label == "spot, 64 grey levels"
    # No limit where the largest size is missed.
    none = limit_curve("missing-part", None, [limit_cell(12, 95, 100), limit_cell(8, 100, 100)])
    assert (none.limit, none.lower, none.label) == (None, None, "missing part")


def test_undamaged_images_have_a_two_sided_interval() -> None:
    undamaged = undamaged_images(2, 100)
    assert undamaged.interval is not None
    lower, upper = undamaged.interval
    assert at_least(2, 100, lower) == pytest.approx(0.025)
    assert 1 - at_least(3, 100, upper) == pytest.approx(0.025)
    assert undamaged_images(0, 0).share is None
