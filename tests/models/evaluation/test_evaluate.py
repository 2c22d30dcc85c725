"""Evaluations of real models on real images: what is compared with what, what is refused, what is not done twice."""

import os
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_models.anomaly.reference_images import evenly_spaced
from snf_models.datasets import DatasetStore, load_dataset
from snf_models.errors import AlphaUnattainable, DatasetNotFound, DatasetUnfit
from snf_models.evaluation import scored_sets as scores_module
from snf_models.evaluation.checks import adapted, check_anomalous, check_normals, check_shape
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.evaluation.image_sets import ImageSets, corruptions
from snf_models.evaluation.scored_sets import LABELS, Baselines, PrincipalComponents, intensity_moments, png_sizes
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_runtime.images.codec import encode_png
from snf_runtime.images.preprocessing import Preprocessing
from tests.models.datasets.upload_files import DIGITS, mixed, npz, pngs, source, zipped
from tests.models.helpers import real_images
from tests.support.compiled_cache import compiled


@pytest.fixture(scope="module")
def digits() -> Scorer:
    """The shipped model of digits."""
    return load_model(Registry(Path("no-such-folder")).resolve("mnist-snf-glow").path, options=compiled())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """Datasets of a user: digits, their negatives, digits of all sizes and colours."""
    folder = tmp_path_factory.mktemp("home")
    store = DatasetStore(folder / "datasets")
    negatives = {f"{index:03d}.png": encode_png(255 - DIGITS[index]) for index in range(60)}
    for name, files in (("digits", pngs(100, 4)), ("negatives", negatives), ("mixed", mixed()), ("few", pngs(12))):
        store.create(name, [source(folder / "uploads", zipped(files))])
    return store


def subject(scorer: Scorer, store: DatasetStore, dataset: str, **parameters: object) -> Subject:
    chosen = EvaluationParameters.model_validate(parameters)
    return Subject(scorer, "digits:1", dataset, chosen, None, store)


@pytest.fixture(scope="module")
def report(digits: Scorer, store: DatasetStore) -> EvaluationReport:
    """Against their negatives and the grossest grade of every fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snf_models.evaluation.evaluate.corruptions", lambda *size: corruptions(*size)[4::5])
        return evaluate(subject(digits, store, "digits", against=["negatives"], corruptions=True))


def test_negatives_are_told_from_digits_and_baselines_stand_beside(report: EvaluationReport) -> None:
    (against, *faults) = report.sets
    assert (against.name, against.kind, against.images.images) == ("negatives", "dataset", 60)
    results = {one.score: one for one in against.results}
    assert results["combined"].auroc > 0.99
    assert list(results) == [one.name for one in report.columns]
    assert {one.name for one in report.columns if one.family == "baseline"} == set(LABELS)
    assert {"whole-family", "local-family", "complexity", "volume-1", "square-2-likely", "line-unlikely"} <= set(
        results
    )
    assert against.best_baseline in LABELS
    assert against.auroc_over_baseline == pytest.approx(
        results["combined"].auroc - results[against.best_baseline].auroc
    )
    for one in against.results:
        for value, (low, high) in ((one.auroc, one.auroc_interval), (one.aupr, one.aupr_interval)):
            assert low - 0.02 <= value <= high + 0.02
    assert len(faults) == 8
    assert {one.kind for one in faults} == {"corruption"}
    noise = next(one for one in faults if one.name == "noise-12")
    assert noise.results[0].auroc > 0.99


def test_the_parts_of_a_users_normal_images_are_disjoint_and_faulty_ones_do_not_count(report: EvaluationReport) -> None:
    normal = report.normal
    assert (normal.fit_images, normal.thresholds.images, normal.test.images) == (25, 25, 50)
    fault = report.sets[-1]
    assert (fault.images.images, fault.normal_images) == (25, 25)


def test_false_alarms_of_every_score_come_with_an_interval(report: EvaluationReport) -> None:
    for column in report.columns:
        first, second = column.false_alarms
        assert first.calibration_images == (5000 if column.name == "combined" else 25)
        # 25 images attain no threshold at 1 %.
        assert (first.alpha, second.alpha) == (0.01 if column.name == "combined" else 1 / 26, 0.05)
        assert first.share is not None
    assert any("stands 0.03846, the smallest that these attain" in note for note in report.notes)
    strange = report.sets[0].results[0].detected[0]
    assert strange.share == pytest.approx(1, abs=0.05)


def test_the_gallery_shows_the_ends_of_the_order(report: EvaluationReport) -> None:
    gallery = report.sets[0].gallery
    most, least = ([one.statistic for one in end] for end in (gallery.most, gallery.least))
    assert len(most) == len(least) == 16
    assert most == sorted(most, reverse=True)
    assert least == sorted(least)
    assert least[-1] <= most[-1]
    assert all(one.name.endswith(".png") and one.png for one in gallery.most)


def test_the_report_is_the_same_after_a_round_trip_through_json(report: EvaluationReport) -> None:
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report


def test_in_place_of_an_alpha_that_few_calibration_images_do_not_attain_stands_the_smallest(
    digits: Scorer, store: DatasetStore
) -> None:
    scorer = copy(digits)
    few = tuple(replace(fold, ordered=fold.ordered[::125], map_maxima=None) for fold in digits.calibration.folds)
    scorer.calibration = replace(digits.calibration, folds=few)
    found = evaluate(subject(scorer, store, "digits", against=["negatives"]))
    assert found.alphas == [1 / 41, 0.05]
    [alarms, _] = found.columns[0].false_alarms
    assert (alarms.alpha, alarms.share is None) == (1 / 41, False)
    assert found.sets[0].results[0].detected[0].alpha == 1 / 41
    assert any(note.startswith("In place of alpha = 0.01 stands 0.02439, the smallest") for note in found.notes)
    with pytest.raises(AlphaUnattainable, match=r"0\.02"):
        evaluate(subject(scorer, store, "digits", against=["negatives"], alpha=0.02))


def test_each_subfolder_of_anomalous_images_has_a_row(digits: Scorer, tmp_path: Path, store: DatasetStore) -> None:
    whole = {f"bad/whole/{index}.png": encode_png(255 - DIGITS[index]) for index in range(10)}
    none = {f"bad/none/{index}.png": encode_png(DIGITS[index]) for index in range(10, 25)}
    store.create("kinds", [source(tmp_path, zipped({**whole, **none}))])
    [found] = evaluate(subject(digits, store, "digits", against=["kinds"])).sets
    assert [(part.name, part.images) for part in found.subfolders] == [("none", 15), ("whole", 10)]
    none_found, whole_found = (part.detected[1].share for part in found.subfolders)
    assert (none_found < 0.3, whole_found) == (True, 1.0)
    assert found.subfolders[1].auroc > 0.99
    together = found.results[0].detected[1].share
    assert together == pytest.approx((15 * none_found + 10) / 25)


class StopNow(Exception):
    """Raised by an observer."""


def test_finished_sets_are_not_scored_again(
    digits: Scorer, store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = subject(digits, store, "digits", against=["negatives", "few"], images=40)
    told: list[str] = []

    def stop_late(label: str, _done: int, _total: int) -> None:
        if label == "few":
            raise StopNow

    with pytest.raises(StopNow):
        evaluate(wanted, stop_late, tmp_path / "sets", told.append)
    assert told == ["digits (thresholds)", "digits", "negatives"]
    again: list[str] = []
    resumed = evaluate(wanted, folder=tmp_path / "sets", finished=again.append)
    assert again == ["few"]
    whole = evaluate(wanted)
    same = {"created"}
    assert resumed.model_dump(exclude=same) == whole.model_dump(exclude=same)
    (tmp_path / "sets" / "against-few.npz").write_bytes(b"damaged")
    more: list[str] = []
    evaluate(wanted, folder=tmp_path / "sets", finished=more.append)
    assert more == ["few"]
    other = subject(digits, store, "digits", against=["negatives", "few"], images=41)
    all_again: list[str] = []
    evaluate(other, folder=tmp_path / "sets", finished=all_again.append)
    assert len(all_again) == 4, "what was kept belongs to another plan"
    assert whole.columns[0].name == scores_module.COMBINED


def test_progress_counts_every_image_once(digits: Scorer, store: DatasetStore) -> None:
    seen: list[tuple[int, int]] = []
    wanted = subject(digits, store, "digits", against=["few"])
    evaluate(wanted, lambda _label, done, total: seen.append((done, total)))
    assert seen[0] == (0, 112)
    assert seen[-1] == (112, 112)
    assert seen == sorted(seen)


def test_what_makes_no_sense_is_refused(digits: Scorer, store: DatasetStore) -> None:
    exact = digits.preprocessing
    for name, error in (("nothing", DatasetNotFound), ("few", DatasetUnfit), ("mixed", DatasetUnfit)):
        with pytest.raises(error):
            check_normals(name, (), exact, False, None, store)
    with pytest.raises(DatasetUnfit, match="normal images"):
        check_anomalous("digits", "digits", exact, False, None, store)
    with pytest.raises(DatasetNotFound):
        check_anomalous("nothing", "digits", exact, False, None, store)
    with pytest.raises(DatasetUnfit, match="upload held-out images"):
        check_normals("digits", ("mnist", "digits"), exact, False, None, store)
    with pytest.raises(AlphaUnattainable):
        evaluate(subject(digits, store, "digits", against=["few"], alpha=1e-5))
    for wrong in ({}, {"against": ["a", "a"]}, {"against": ["../a"]}, {"against": ["a"], "images": 3}, {"beside": 1}):
        with pytest.raises(ValueError, match="1 validation error"):
            EvaluationParameters.model_validate(wrong)


def test_other_sizes_and_colours_are_converted_only_when_asked(digits: Scorer, store: DatasetStore) -> None:
    with pytest.raises(DatasetUnfit, match="the option adapt converts size and colour"):
        check_shape("mixed", digits.preprocessing, None, store)
    with pytest.raises(DatasetUnfit, match="the option adapt converts size and colour"):
        evaluate(subject(digits, store, "digits", against=["mixed"]))
    found = evaluate(subject(digits, store, "digits", against=["mixed"], adapt=True))
    assert found.sets[0].images.adapted
    assert not found.normal.test.adapted
    assert any("mixed were converted" in note for note in found.notes)
    colour = Preprocessing(channels=3, height=32, width=32)
    assert adapted(colour, True) == Preprocessing(channels=3, height=32, width=32, fit="stretch", colour="rgb")
    assert adapted(colour, False) is colour


def test_built_in_parts_are_used_as_they_are_shared_out(digits: Scorer) -> None:
    chosen = EvaluationParameters(corruptions=True, images=40)
    normals = ImageSets((), digits.preprocessing, chosen, None, None).normals("mnist-mini")
    mini = load_dataset("mnist-mini", None)
    for found, part in (
        (normals.fit, mini.statistics),
        (normals.thresholds, mini.calibration),
        (normals.test, mini.test),
    ):
        wanted = part[evenly_spaced(len(part), 40)]
        assert (np.concatenate(list(found.batches())) == wanted).all()
        assert len(found.names) == len(found) == 40


def test_images_of_an_array_are_read_too(tmp_path: Path, digits: Scorer) -> None:
    store = DatasetStore(tmp_path / "datasets")
    store.create("arrays", [source(tmp_path / "uploads", npz(images=DIGITS[:50, 0]), "a.npz")])
    chosen = EvaluationParameters(against=["arrays"])
    images = ImageSets((), digits.preprocessing, chosen, None, store).anomalous("arrays", "mnist-mini")
    assert sorted(map(bytes, np.concatenate(list(images.batches())))) == sorted(map(bytes, DIGITS[:50]))


DATA_DIR = Path(os.environ.get("SNF_DATA_DIR") or "no-such-folder")
NEEDS_DATA = pytest.mark.skipif(
    not (DATA_DIR / "fashion_mnist.npz").is_file(), reason="SNF_DATA_DIR has no fashion_mnist.npz"
)


@pytest.mark.data
@NEEDS_DATA
@pytest.mark.parametrize(
    ("model", "normal", "against"),
    [("mnist-snf-glow", "mnist", "fashion-mnist"), ("fashion-snf-glow", "fashion-mnist", "mnist")],
)
def test_either_way_the_combined_score_is_good(model: str, normal: str, against: str) -> None:
    scorer = load_model(Registry(Path("no-such-folder")).resolve(model).path, options=compiled())
    parameters = EvaluationParameters(against=[against], images=100)
    report = evaluate(Subject(scorer, f"{model}:1", normal, parameters, DATA_DIR, None))
    (found,) = report.sets
    assert (found.images.images, found.normal_images) == (100, 100)
    results = {one.score: one for one in found.results}
    assert results["combined"].auroc > 0.95
    if model == "fashion-snf-glow":
        assert results["log-likelihood-low"].auroc < 0.2, "digits are likelier than clothes"
        alarms = report.columns[0].false_alarms[0]
        assert alarms.inside
    assert any("other writers" in note for note in report.notes) == (normal == "mnist")
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report


def test_moments_are_scipys_and_one_colour_has_none() -> None:
    images = real_images(5, 16, 3)
    images[0, 1] = 7
    found = intensity_moments(images)
    flat = images.reshape(5, 3, -1).astype(float)
    assert found.shape == (5, 12)
    assert found[1:, :3] == pytest.approx(flat.mean(2)[1:])
    assert found[1:, 3:6] == pytest.approx(flat.std(2)[1:])
    assert found[1:, 6:9] == pytest.approx(stats.skew(flat[1:], axis=2))
    assert found[1:, 9:] == pytest.approx(stats.kurtosis(flat[1:], axis=2))
    assert found[0, [1, 4, 7, 10]].tolist() == [7, 0, 0, 0]


def test_the_distance_is_that_of_the_whole_covariance() -> None:
    """Of probabilistic PCA: V diag(λ - σ²) V' + σ² I."""
    images = real_images(120, 8)
    found = PrincipalComponents.fit(images)
    flat = images.reshape(120, -1) - found.mean
    covariance = found.vectors.T @ np.diag(found.variances - found.noise) @ found.vectors + found.noise * np.eye(64)
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", flat, np.linalg.inv(covariance), flat))
    assert found(images) == pytest.approx(wanted)


def test_large_images_are_averaged_first() -> None:
    images = np.repeat(np.repeat(real_images(20, 28), 3, 2), 3, 3)
    found = PrincipalComponents.fit(images)
    assert found.block == 2
    assert found.vectors.shape[1] == 42 * 42
    assert np.isfinite(found(images)).all()


def test_each_baseline_sees_what_it_is_for() -> None:
    images = real_images(200, 28)
    log_likelihoods = np.random.default_rng(0).normal(-600, 50, 200)
    baselines = Baselines.fit(images[:100], log_likelihoods[:100])
    normal = baselines(images[100:], log_likelihoods[100:])
    assert normal.shape == (100, len(LABELS))
    noise = np.random.default_rng(1).integers(0, 256, (10, 1, 28, 28)).astype(np.uint8)
    assert png_sizes(noise).min() > png_sizes(images).max()
    strange = baselines(noise, np.full(10, 0.0))
    low, two_sided, *others = range(len(LABELS))
    assert (strange[:, low] < normal[:, low].min()).all(), "likelier images are less strange to it"
    for number in (two_sided, *others):
        assert strange[:, number].min() > normal[:, number].max(), [*LABELS][number]
