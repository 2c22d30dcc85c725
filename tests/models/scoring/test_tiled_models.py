"""Models of tiles: one statistic and one p-value an image of any size, with boxes in pixels of the image."""

import math
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.training import TrainingConfig
from snf_models.anomaly.reference_images import as_seen, evidence_bytes, images_in_memory, reference_of
from snf_models.audit import recompute_features
from snf_models.bulk.work import score_range
from snf_models.datasets import DatasetStore, load_dataset
from snf_models.datasets.image_source import ImageFiles, StoredImages, open_source
from snf_models.errors import DatasetUnfit, SizeNotCalibrated
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.evaluation.image_sets import ImageSet
from snf_models.evaluation.localisation import few
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.loading.verification import exact_tolerance
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import folds_of_fit
from snf_models.scorer import Scorer, load_model
from snf_runtime.anomaly.detection import Detection, StoredEvidence, rejudge
from snf_runtime.anomaly.maps import tile_maps
from snf_runtime.anomaly.statistics import FeatureGroup
from snf_runtime.images.batch import Batch, tile_plan
from snf_runtime.images.codec import encode_png
from snf_runtime.scoring.evidence import FeatureEvidence
from snf_runtime.scoring.feature_density import FeaturePass
from tests.support.compiled_cache import compiled
from tests.support.tiled import (
    DIGIT,
    FAULTY,
    OTHERS,
    SIDE,
    STRIDE,
    TRAINED_ON,
    mosaic,
    tiled_artifact,
    tiles_of,
    with_fault,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> tuple[Scorer, DatasetStore]:
    artifact, store = tiled_artifact(tmp_path_factory)
    return load_model(artifact, options=compiled(backbones=backbones)), store


@pytest.fixture(scope="module")
def scorer(made: tuple[Scorer, DatasetStore]) -> Scorer:
    """The model with a calibration as earlier versions made it, which judges images of all sizes."""
    scorer = copy(made[0])
    scorer.calibration = replace(scorer.calibration, tile_counts=None)
    return scorer


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Mosaics of several sizes, one smaller than a tile, one with a size that is no multiple of a place."""
    return [*(mosaic(seed) for seed in range(300, 305)), mosaic(1, 1, 1), mosaic(2, 6, 7)[:, :151, :133]]


def judged(scorer: Scorer, batch: Batch) -> list[Detection]:
    results = scorer.detect(batch)
    assert all(isinstance(result, Detection) for result in results)
    return [result for result in results if isinstance(result, Detection)]


def test_a_statistic_is_that_of_all_tiles(scorer: Scorer, images: list[NDArray[np.uint8]]) -> None:
    for image, likelihood in zip(images, scorer.score(images), strict=True):
        evidence = likelihood.evidence
        for fold in scorer.calibration.folds:
            family = fold.statistic.features
            number, tiles = int(family.fit_number[0]), tiles_of(image)
            places, pooled = scorer.density.engine.squares(np.stack(list(tiles.values())))
            centred = dict(zip(tiles, 0.5 * places[:, number] - family.centre, strict=True))
            values = []
            for row in range(math.ceil(image.shape[1] / STRIDE)):
                for column in range(math.ceil(image.shape[2] / STRIDE)):
                    y, x = STRIDE * row + 8, STRIDE * column + 8
                    inside = [(t, left) for t, left in centred if t < y < t + SIDE and left < x < left + SIDE]
                    top, left = min(inside, key=lambda at, y=y, x=x: (abs(at[0] + 32 - y), abs(at[1] + 32 - x)))
                    values.append(centred[top, left][row - top // STRIDE, column - left // STRIDE])
            highest = np.sort(values)[-math.ceil(0.05 * len(values)) :]
            expected = [max(values), highest.mean(), *(0.5 * pooled[:, number]).max(0)]
            assert evidence.features is not None
            np.testing.assert_allclose(family.statistics(evidence.features)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_log_likelihood_is_the_sum_over_tiles_in_float64(
    scorer: Scorer, images: list[NDArray[np.uint8]], backbones: Path
) -> None:
    flows, architecture = scorer.trained.flows, scorer.manifest.architecture
    for image, count in ((images[-2], 1), (images[-1][:, :87, :71], 4)):
        tiles = tiles_of(image).values()
        assert len(tiles) == count
        exact = [recompute_features(flows, architecture, compiled(backbones=backbones), one[None])[0] for one in tiles]
        [found] = scorer.score([image])
        tolerance = sum(exact_tolerance(scorer.density.dimensions, log_likelihood) for log_likelihood in exact)
        assert found.log_likelihood == pytest.approx(math.fsum(exact), abs=tolerance)
        assert found.log_likelihood == sum(term.log_prior + term.log_det for term in found.terms)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_image_has_the_same_score_in_all_company(
    made: tuple[Scorer, DatasetStore],
    images: list[NDArray[np.uint8]],
    tmp_path_factory: pytest.TempPathFactory,
    backbones: Path,
    engine: str,
) -> None:
    artifact, _ = tiled_artifact(tmp_path_factory)
    options = compiled(name="torch" if engine == "torch" else "auto", backbones=backbones)
    first, again = (load_model(artifact, options=options) for _ in range(2))
    assert first.density.engine_name == again.density.engine_name == engine
    images = images[3:]
    together = judged(first, images)
    alone = [judged(again, [image])[0] for image in images]
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    shuffled = judged(again, [images[number] for number in order])
    for number, result in enumerate(together):
        for other in (alone[number], shuffled[order.index(number)]):
            assert other.likelihood.log_likelihood == result.likelihood.log_likelihood
            assert other.verdict == result.verdict
    drawn = first.score(images[:3], draws=3)
    assert [score.log_likelihood for score in drawn] == [one.likelihood.log_likelihood for one in together[:3]]


def test_a_large_image_pauses_between_groups_of_tiles(scorer: Scorer) -> None:
    image = mosaic(3, 18, 18)
    steps, pauses = scorer.detect_steps([image], explain=True), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            [result] = end.value
            break
        pauses += 1
    # Scores and heat map come from the same pass.
    assert pauses >= len(scorer.density.plan(image)) // scorer.density.chunk_size - 1 > 1
    assert result.verdict == judged(scorer, [image])[0].verdict


def test_a_fault_is_found_where_it_is(scorer: Scorer) -> None:
    image = mosaic(7, 12, 10)
    for top, left in ((130, 40), (20, 220), (320, 264), (4, 3)):
        [result] = judged(scorer, [with_fault(image, top, left)])
        reason = next(reason for reason in result.verdict.reasons if reason.box is not None)
        assert reason.box is not None
        x0, y0, x1, y1 = reason.box
        assert x0 < left + 16
        assert left < x1
        assert y0 < top + 16
        assert top < y1
        assert result.verdict.extrapolated
    height, width = 12 * DIGIT, 10 * DIGIT - 1
    [result] = judged(scorer, [with_fault(image[:, :, :width], height - 16, width - 16)])
    boxes = [reason.box for reason in result.verdict.reasons if reason.box is not None]
    assert boxes
    assert all(box[2] <= width and box[3] <= height for box in boxes)


def test_a_heat_map_is_of_the_image(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    image = with_fault(mosaic(7, 6, 8), 90, 150)
    [result] = scorer.detect([image], explain=True)
    heat_map = result.heat_map
    assert (heat_map.nats.shape, heat_map.z.shape, heat_map.scale) == (image.shape[1:], image.shape[1:], 1)
    assert heat_map.nats.sum() == pytest.approx(result.likelihood.log_likelihood, rel=1e-9)
    row, column = np.unravel_index(heat_map.z.argmin(), heat_map.z.shape)
    assert 80 <= row < 112
    assert 144 <= column < 176
    strongest = result.regions.regions[0]
    left, top, right, bottom = strongest.box
    assert left <= 150
    assert right >= 166
    assert top <= 90
    assert bottom >= 106
    assert strongest.area <= (right - left) * (bottom - top)
    assert strongest.box in {reason.box for reason in result.verdict.reasons}
    monkeypatch.setattr("snf_runtime.anomaly.maps.MAX_MAP_PIXELS", 5000)
    [found] = [found for _, found in scorer.density.passes([image]) if found is not None]
    assert isinstance(found, FeaturePass)
    [small] = tile_maps(found, scorer.require_spatial(), scorer.calibration.feature_maps(found.evidence()))
    assert (small.scale, small.z.shape) == (3, (56, 74))
    assert small.nats.sum() == pytest.approx(result.likelihood.log_likelihood, rel=1e-9)
    np.testing.assert_array_equal(small.z, heat_map.z[: 3 * 56 : 3, : 3 * 74 : 3])
    assert small.regions(result.regions.threshold) == result.regions


def test_evidence_of_images_is_selected_and_joined(scorer: Scorer, images: list[NDArray[np.uint8]]) -> None:
    parts = [likelihood.evidence for likelihood in scorer.score(images)]
    features = [part.features for part in parts if part is not None and part.features is not None]
    together = FeatureEvidence.join(features)
    assert len(together) == len(images)
    family = scorer.calibration.folds[0].statistic.features
    rows = np.array([4, 0, 6])
    np.testing.assert_array_equal(family.statistics(together[rows]), family.statistics(together)[rows])
    for number, of_image in enumerate(family.maps(together)):
        np.testing.assert_array_equal(of_image, family.maps(features[number])[0])
    assert len(together[:0]) == 0
    assert family.statistics(together[:0]).shape == (0, 4)


def test_bulk_scores_are_those_of_single_images(
    made: tuple[Scorer, DatasetStore], images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    scorer, store = made
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode_png(image))
    paths[2].write_bytes(b"no image")
    source = ImageFiles(paths, scorer.preprocessing)
    rows = score_range(scorer, source, 0, source.count, None).to_pylist()
    assert [bool(row["error"]) for row in rows].count(True) == 1
    assert len(rows) == len(images)
    for number in (0, 1, 5, 6):
        [alone] = judged(scorer, [images[number]])
        assert rows[number]["log_likelihood"] == alone.likelihood.log_likelihood
        assert rows[number]["p_value"] == alone.verdict.p_value
    assert rows[5]["warning"].startswith("smaller than a tile")
    stored = open_source(FAULTY, None, store, scorer.preprocessing)
    assert score_range(scorer, stored, 0, stored.count, 0.05)["is_anomaly"].to_pylist() == [True] * 10


def test_an_image_of_another_size_is_not_judged(made: tuple[Scorer, DatasetStore], tmp_path: Path) -> None:
    strict = made[0]
    counts = strict.calibration.tile_counts
    assert counts.tolist() == [1, 9]
    images = [mosaic(1, 2, 2), mosaic(2, 4, 5), mosaic(3, 3, 3), mosaic(4, 8, 8)]
    assert [len(strict.density.plan(image)) for image in images] == [1, 6, 4, 25]
    small, large = (replace(strict.calibration, tile_counts=np.array(limits)) for limits in ([2, 9], [1, 4]))
    for calibration, refused in ((strict.calibration, [3]), (small, [0, 3]), (large, [1, 3])):
        scorer = copy(strict)
        scorer.calibration = calibration
        results = scorer.detect(images, explain=True)
        assert [number for number, result in enumerate(results) if isinstance(result, SizeNotCalibrated)] == refused
        for image, result in zip(images, results, strict=True):
            if isinstance(result, Detection):
                assert result.heat_map.z.shape == image.shape[1:]
                assert result.likelihood == scorer.score([image])[0]
        stored = [
            StoredEvidence.of(score.evidence, None, "float32") for score in scorer.score(images) if score.evidence
        ]
        assert [number for number, verdict in enumerate(rejudge(calibration, stored)) if verdict is None] == refused
    [error] = strict.detect(images[3:])
    assert isinstance(error, SizeNotCalibrated)
    assert error.detail.startswith(
        "expected 1 to 9 tile(s) of 64 pixels, as the calibration images have, got 25 (224x224 pixels): calibrate"
    )
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path, image in zip(paths, images[2:], strict=True):
        path.write_bytes(encode_png(image))
    source = ImageFiles(paths, strict.preprocessing)
    rows = score_range(strict, source, 0, source.count, None).to_pylist()
    assert [row["error"] for row in rows] == [None, "size-not-calibrated"]


def test_images_of_another_size_are_left_out_of_an_evaluation_and_refused_for_a_limit(
    made: tuple[Scorer, DatasetStore],
) -> None:
    scorer, store = copy(made[0]), made[1]
    scorer.calibration = replace(scorer.calibration, tile_counts=np.array([1, 4]))
    large = sum(len(scorer.density.plan(mosaic(seed))) > 4 for seed in range(200, 210))
    assert 0 < large < 10
    parameters = EvaluationParameters(against=[FAULTY], corruptions=False)
    report = evaluate(Subject(scorer, "tiles:1", OTHERS, parameters, None, store))
    assert (report.sets[0].images.images, report.sets[0].images.failed) == (10, large)
    assert any("a size that the calibration is not for" in note for note in report.notes)
    good = good_images(OTHERS, scorer.manifest, scorer.calibration_summary, 29, None, store)
    limits = LimitParameters(shapes=("hole",), alpha=0.1, images=29)
    with pytest.raises(DatasetUnfit, match=r"expected 1 to 4 tile\(s\) of 64 pixels"):
        measure_limits(scorer, good, limits, progress=lambda *_: pytest.fail("images were scored"))


def test_large_images_are_flagged_about_as_often_as_small_ones() -> None:
    random = np.random.default_rng(0)

    def images(size: int, count: int) -> FeatureEvidence:
        plans = [tile_plan(size, size, SIDE, STRIDE)] * count
        tiles = sum(map(len, plans))
        return FeatureEvidence(random.exponential(size=(tiles, 1, 4, 4)), np.ones((tiles, 1, 2)), tuple(plans))

    sizes = (64, 128, 256, 512)
    family = FeatureGroup.fit(FeatureEvidence.join([images(size, 75) for size in sizes]))
    ranked = family.surprise(FeatureEvidence.join([images(size, 1000) for size in sizes]))
    threshold = np.quantile(ranked, 0.95)
    shares = [(family.surprise(images(size, 2000)) >= threshold).mean() for size in sizes]
    # 1 to 16 % before the statistics were compared with those of images of the same size.
    assert all(0.025 < share < 0.075 for share in shares), shares


def test_a_model_of_tiles_is_calibrated_on_other_images(made: tuple[Scorer, DatasetStore]) -> None:
    scorer, store = made
    dataset = load_dataset(OTHERS, None, store, as_seen(scorer.preprocessing))
    assert dataset.image_shape == (1, SIDE, SIDE)
    reference = reference_of(dataset, scorer.manifest)
    calibration, summary = scorer.calibrate(reference, lambda _part, _done, _images: None)
    assert summary.statistics_images + summary.calibration_images == 40
    mosaics = [mosaic(seed) for seed in range(400, 406)]
    scores = scorer.score([*mosaics, *(with_fault(image, 20, 24) for image in mosaics)])
    p = [float(calibration.p_values(score.evidence)[0]) for score in scores]
    assert max(p[6:]) == calibration.smallest_p
    assert np.median(p[:6]) > 0.1


def test_maps_in_memory_are_counted_by_the_size_of_the_images(
    made: tuple[Scorer, DatasetStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, store = made
    images = ImageSet(OTHERS, StoredImages(store, OTHERS, scorer.preprocessing, "path"), scorer.preprocessing)
    sizes = [mosaic(seed)[0].size for seed in range(100, 140)]
    assert images.sizes.prod(1).tolist() == sizes
    module = "snf_models.evaluation.localisation"
    assert len(few(images)) == 40
    monkeypatch.setattr(f"{module}.MAX_VALUES", 10 * max(sizes))
    assert sum(image.pixels[0].size for batch in few(images).decoded() for image in batch) <= 10 * max(sizes)
    assert len(few(images)) == 10
    monkeypatch.setattr(f"{module}.MAX_MAP_PIXELS", max(sizes) // 2)
    assert len(few(images)) == 20


def test_a_detection_limit_is_measured_on_images_of_any_size(made: tuple[Scorer, DatasetStore]) -> None:
    scorer, store = made
    good = good_images(OTHERS, scorer.manifest, scorer.calibration_summary, 29, None, store)
    parameters = LimitParameters(shapes=("hole",), alpha=0.1, images=29)
    record = measure_limits(scorer, good, parameters)
    assert record.images == 29
    assert record.image_shape == (1, SIDE, SIDE)
    assert max(record.sizes) <= SIDE // 2


def test_a_damaged_cache_of_pixels_is_made_again(made: tuple[Scorer, DatasetStore]) -> None:
    scorer, store = made
    options = as_seen(scorer.preprocessing)
    before = load_dataset(FAULTY, None, store, options)
    [pixels] = (store.root / FAULTY).glob("prepared/*/pixels.bin")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    again = load_dataset(FAULTY, None, store, options)
    assert again.digest == before.digest
    assert [image.shape for image in again.train] == [image.shape for image in before.train]
    np.testing.assert_array_equal(again.train[0], with_fault(again.train[0], 20, 24))


def test_evidence_in_memory_is_bounded(made: tuple[Scorer, DatasetStore], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, store = made
    architecture = scorer.manifest.architecture
    large = [mosaic(0, 10, 10)] * 60
    evidence = scorer.score(large[:1])[0].evidence
    assert evidence_bytes(large, architecture) == 60 * evidence.features.places.nbytes
    assert images_in_memory(large, architecture) == 60
    monkeypatch.setattr(
        "snf_models.anomaly.reference_images.MAX_EVIDENCE_BYTES", evidence_bytes(large, architecture) // 2
    )
    assert images_in_memory(large, architecture) == 30
    dataset, events = load_dataset(TRAINED_ON, None, store, as_seen(scorer.preprocessing)), []
    assert folds_of_fit(dataset, architecture, events.append) is dataset.whole_folds
    monkeypatch.setattr("snf_models.pipeline.run.MAX_FOLDED_BYTES", 1000)
    assert folds_of_fit(dataset, architecture, events.append) is None
    assert [event["event"] for event in events] == ["log"]


def test_tiles_may_be_enlarged(made: tuple[Scorer, DatasetStore], backbones: Path) -> None:
    preset, config = find_preset("snf-features"), TrainingConfig(fit="tiles", feature_side=128)
    architecture = preset.architecture_for((1, SIDE, SIDE), config, backbones)
    assert (architecture.input_size, architecture.rows) == ((128, 128), 8)
    with pytest.raises(DatasetUnfit, match="set image_size to a multiple of 32"):
        preset.architecture_for((1, 100, 100), TrainingConfig(fit="tiles"), backbones)


def test_only_models_of_features_alone_take_tiles(made: tuple[Scorer, DatasetStore]) -> None:
    _, store = made
    for name in ("snf-glow-tiny", "snf-hybrid"):
        with pytest.raises(ValueError, match=f"models of features alone, which {name} is not; choose the preset snf-f"):
            find_preset(name).config({"fit": "tiles"})
        with pytest.raises(DatasetUnfit, match="choose the preset snf-features"):
            find_preset(name).architecture_for((1, 64, 64), TrainingConfig(fit="tiles"))
    with pytest.raises(DatasetUnfit, match="square tiles"):
        load_dataset(TRAINED_ON, None, store, TrainingConfig(fit="tiles", image_size=(64, 96)))
