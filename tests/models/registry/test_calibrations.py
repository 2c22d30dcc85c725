"""Calibrations made after a model: numbers, the choice among them, and what may never be loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from snf_app.calibrations.service import listing
from snf_models.anomaly import reference_images
from snf_models.anomaly.calibrate import calibrate, count_image_passes
from snf_models.anomaly.exchangeability import images_needed, safe_threshold
from snf_models.anomaly.reference_images import EvenlySpaced, ImageRows, as_seen, check_summary, reference_of
from snf_models.artifacts.manifest import CalibrationSummary, FeatureFitRecord, GridChoice, read_manifest
from snf_models.datasets import Dataset, load_dataset, summarize
from snf_models.errors import ArtifactError, CalibrationNotFound, DatasetUnfit
from snf_models.registry.calibrations import ARRAYS, CHOICE, RECORD, CalibrationStore, calibration_bytes
from snf_models.registry.registry import ZOO, Registry
from snf_models.scorer import Scorer, load_model
from snf_runtime.anomaly.calibration import USUAL_ALPHAS
from snf_runtime.images.batch import stacked
from tests.models.helpers import real_images
from tests.support.compiled_cache import compiled

Made = tuple[bytes, CalibrationSummary]


def own_images(count: int) -> Dataset:
    """Other images than those of training, shared out as an upload is."""
    images = 255 - real_images(count)
    held_out = max(1, count // 10)
    train, statistics, calibration = np.split(images, [count - 2 * held_out, count - held_out])
    return Dataset("own", train, statistics, calibration, test=images[:0], digest="another")


@pytest.fixture(scope="session")
def made(scorer: Scorer) -> Made:
    """A calibration on other images, without gradients."""
    reference = reference_of(own_images(60), scorer.manifest)
    calibration, summary = calibrate(scorer.density, reference, scorer.pinned[0], lambda *_: None)
    return calibration_bytes(calibration), summary


def test_the_newest_is_active_and_another_scores(
    registry: Registry, calibrations: CalibrationStore, made: Made, scorer: Scorer
) -> None:
    before = registry.resolve("digits")
    assert (before.calibration, before.calibration_summary) == (0, before.manifest.calibration)
    assert [calibrations.publish(*made), calibrations.publish(*made, job="b")] == [1, 2]
    now = registry.resolve("digits")
    assert (now.calibration, calibrations.numbers(), now == before) == (2, [0, 1, 2], False)
    assert now.calibration_summary == made[1] == calibrations.record(1).summary
    assert registry.names() == ["digits"]
    assert registry.versions("digits") == [1]
    again = load_model(now.path, now.calibration_path, compiled())
    assert again.calibration.smallest_p == made[1].smallest_p == 1 / 13
    assert again.calibration_summary == made[1]
    pinned = scorer.pinned[:1]
    assert again.score(pinned)[0].log_likelihood == scorer.score(pinned)[0].log_likelihood
    assert (
        again.verdicts([again.score(pinned)[0]])[0].statistic != scorer.verdicts([scorer.score(pinned)[0]])[0].statistic
    )


def test_a_job_publishes_once(calibrations: CalibrationStore, made: Made) -> None:
    assert [calibrations.publish(*made, job=job) for job in ("a", "b", "a")] == [1, 2, 1]
    assert (calibrations.of_job("b"), calibrations.of_job("c"), calibrations.active()) == (2, None, 2)


def test_what_a_killed_job_left_over_goes_with_the_next_calibration(calibrations: CalibrationStore, made: Made) -> None:
    leftover = calibrations.folder / f".1.{'0' * 32}"
    leftover.mkdir(parents=True)
    assert calibrations.publish(*made) == 1
    assert not leftover.exists()


def test_one_that_lost_its_lease_publishes_nothing(calibrations: CalibrationStore, made: Made) -> None:
    def lost() -> None:
        raise RuntimeError("lost")

    for activate in (True, False):
        with pytest.raises(RuntimeError, match="lost"):
            calibrations.publish(*made, job="a", activate=activate, before_publish=lost)
    assert (calibrations.numbers(), calibrations.active()) == ([0], 0)


def test_a_choice_lasts_until_something_newer_comes(calibrations: CalibrationStore, made: Made) -> None:
    weights = made[1].weights_sha256
    calibrations.publish(*made)
    calibrations.choose(0, weights)
    assert calibrations.active() == 0
    assert calibrations.publish(*made, activate=False) == 2
    assert calibrations.active() == 0
    calibrations.choose(1, weights)
    assert calibrations.publish(*made, activate=False) == 3
    assert calibrations.active() == 1
    assert calibrations.publish(*made) == 4
    assert calibrations.active() == 4
    with pytest.raises(CalibrationNotFound, match=r"digits:1 has no calibration 9; it has: 0, 1, 2, 3, 4"):
        calibrations.choose(9, weights)
    assert calibrations.active() == 4


def test_one_that_is_deleted_is_an_error_and_its_number_is_not_given_again(
    registry: Registry, calibrations: CalibrationStore, made: Made
) -> None:
    calibrations.publish(*made)
    shutil.rmtree(calibrations.folder / "1")
    gone = registry.resolve("digits")
    assert gone.calibration == 1
    with pytest.raises(ArtifactError, match=r"digits/calibrations/1/1/calibration.json cannot be read"):
        load_model(gone.path, gone.calibration_path)
    assert calibrations.publish(*made) == 2
    calibrations.choose(0, made[1].weights_sha256)
    assert registry.resolve("digits").calibration == 0


def wrong_digest(folder: Path) -> None:
    arrays = bytearray((folder / ARRAYS).read_bytes())
    arrays[-1] ^= 1
    (folder / ARRAYS).write_bytes(arrays)


def edit(folder: Path, **changes: object) -> None:
    record = json.loads((folder / RECORD).read_text())
    record["summary"] |= changes
    (folder / RECORD).write_text(json.dumps(record))


foreign_weights = partial(edit, weights_sha256="0" * 64)


@pytest.mark.parametrize(
    ("damage", "message", "may_be_chosen"),
    [
        (wrong_digest, r"calibration\.safetensors does not have the SHA-256", False),
        (lambda folder: (folder / ARRAYS).unlink(), r"1/1/calibration\.safetensors is missing", False),
        (lambda folder: (folder / RECORD).write_text("{"), r"calibration\.json is not a valid calibration", False),
        (foreign_weights, "belongs to other weights", False),
        # Found by loading alone.
        (partial(edit, precision="bfloat16"), "the pinned image scores|the statistic of the pinned image", True),
        (partial(edit, pinned_statistic=1e3), "the statistic of the pinned image is", True),
        (partial(edit, calibration_images=13), "expected 13 images, got 12", True),
    ],
)
def test_damage_is_named(
    registry: Registry,
    calibrations: CalibrationStore,
    made: Made,
    damage: Callable[[Path], object],
    message: str,
    may_be_chosen: bool,
) -> None:
    calibrations.publish(*made)
    damage(calibrations.folder / "1")
    version = registry.with_calibration("digits", 1, 1)
    with pytest.raises(ArtifactError, match=message):
        load_model(version.path, version.calibration_path, compiled())
    if not may_be_chosen:
        with pytest.raises(ArtifactError, match=message):
            calibrations.choose(1, made[1].weights_sha256)
    # What another job made is found past it, and the way back is open.
    assert calibrations.publish(*made, job="a") == 2
    assert calibrations.publish(*made, job="a") == 2
    calibrations.choose(0, made[1].weights_sha256)
    assert (
        load_model(version.path, registry.resolve("digits").calibration_path, compiled()).calibration.smallest_p
        == 1 / 51
    )


def test_a_damaged_choice_is_named_and_replaced(registry: Registry, calibrations: CalibrationStore, made: Made) -> None:
    calibrations.publish(*made)
    (calibrations.folder / CHOICE).write_text("1")
    with pytest.raises(ArtifactError, match=r"digits/calibrations/1/active\.json is not a valid choice"):
        registry.resolve("digits")
    assert registry.names() == ["digits"]
    calibrations.choose(1, made[1].weights_sha256)
    assert registry.resolve("digits").calibration == 1


def test_shipped_models_are_calibrated_beside_them(artifact: Path, tmp_path: Path, made: Made) -> None:
    shutil.copytree(artifact, tmp_path / "zoo" / "shipped" / "1")
    registry = Registry(tmp_path / "registry", zoo=tmp_path / "zoo")
    registry.calibrations("shipped", 1).publish(*made)
    registry.calibrations("nobody", 1).publish(*made)
    assert registry.names() == ["shipped"]
    found = registry.resolve("shipped")
    assert (found.version, found.read_only, found.calibration) == (1, True, 1)
    mine = registry.publish(artifact, "shipped")
    assert (mine.version, mine.calibration) == (2, 0)


def test_after_an_upgrade_a_calibration_of_other_weights_gives_way_by_name(
    artifact: Path, tmp_path: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(artifact, tmp_path / "zoo" / "shipped" / "1")
    registry = Registry(tmp_path / "registry", zoo=tmp_path / "zoo")
    calibrations = registry.calibrations("shipped", 1)
    calibrations.publish(*made)
    foreign_weights(calibrations.folder / "1")
    for _ in range(2):
        version = registry.resolve("shipped")
        assert (version.calibration, version.calibration_path) == (0, None)
        assert load_model(version.path, version.calibration_path, compiled()).calibration.smallest_p == 1 / 51
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("calibration 1 of shipped:1 was made for other weights")
    assert "all scores of shipped:1" in warning
    shown, old = listing(registry, "shipped").calibrations
    assert (shown.active, shown.problem, old.active, old.problem) == (True, None, False, warning)
    assert calibrations.publish(*made) == 2
    assert registry.resolve("shipped").calibration == 2


def test_new_weights_of_a_shipped_model_are_a_new_version() -> None:
    weights = {
        f"{path.parts[-3]}:{path.parts[-2]}": read_manifest(path.parent).log_dets.weights_sha256[:16]
        for path in ZOO.glob("*/*/manifest.json")
    }
    known = {
        "cifar10-snf-glow:1": "0ebe37661d048ce6",
        "fashion-snf-glow:1": "ea9fc39016205275",
        "mnist-snf-glow:1": "8a9ec2436d8c0dc0",
    }
    assert weights == known, "keep a version as it is, publish other weights under the next number, and add it here"


def test_a_version_that_takes_a_number_again_starts_without(registry: Registry, artifact: Path, made: Made) -> None:
    registry.publish(artifact, "digits")
    registry.calibrations("digits", 2).publish(*made)
    shutil.rmtree(registry.root / "digits" / "2")
    assert registry.publish(artifact, "digits").calibration == 0


def rows(images: ImageRows) -> list[bytes]:
    return sorted(image.tobytes() for image in images[0 : len(images)])


def test_which_images_serve(scorer: Scorer) -> None:
    mini = load_dataset("mnist-mini", None, config=as_seen(scorer.preprocessing))
    own = reference_of(mini, scorer.manifest)
    assert (len(own.statistics), len(own.calibration)) == (50, 50)
    assert rows(own.statistics) == rows(mini.statistics)
    other = reference_of(replace(mini, digest="another"), scorer.manifest)
    assert (len(other.statistics), len(other.calibration)) == (400, 100)
    assert rows(other.calibration) == rows(np.concatenate([mini.statistics, mini.calibration]))
    folds = (np.arange(50) % 5).astype(np.int8)
    folded = replace(mini, calibration=mini.calibration[:0], folds=folds)
    assert reference_of(folded, scorer.manifest).folds is folds
    assert reference_of(replace(folded, digest="another"), scorer.manifest).folds is None


def test_reference_images_keep_the_order_of_the_dataset(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, as in a training, and those that are taken of more."""
    mini = load_dataset("mnist-mini", None, config=as_seen(scorer.preprocessing))
    own = reference_of(mini, scorer.manifest)
    np.testing.assert_array_equal(own.statistics[:50], mini.statistics)
    np.testing.assert_array_equal(own.calibration[:50], mini.calibration)
    monkeypatch.setattr(reference_images, "MAX_STATISTICS", 40)
    monkeypatch.setattr(reference_images, "MAX_CALIBRATION", 30)
    numbers = np.arange(600, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    numbered = np.zeros((600, *scorer.preprocessing.shape), np.uint8)
    numbered[:, 0, 0, :2] = numbers
    train, statistics, calibration = np.split(numbered, [400, 500])
    large = replace(mini, train=train, statistics=statistics, calibration=calibration, digest="another")
    other = reference_of(large, scorer.manifest)
    for images, expected in (
        (other.statistics, np.linspace(0, 399, 40)),
        (other.calibration, np.linspace(400, 599, 30)),
    ):
        taken = np.ascontiguousarray(stacked(images[:])[:, 0, 0, :2]).view(np.uint16)[:, 0]
        np.testing.assert_array_equal(taken, expected.round())


def test_the_images_that_a_model_was_fitted_to_are_refused(scorer: Scorer) -> None:
    """Where few images are all fitted to, only the folds of that fit can rank them."""
    choice = GridChoice(grid=1, shrinkage=0.1, mean_shrinkage=0.0, held_out_nats=0.0)
    manifest = scorer.manifest
    own = replace(own_images(60), digest=manifest.training.dataset_digest)
    for fits in (1, 6):
        record = FeatureFitRecord(backbone="b", grids=(choice,), pooled=choice, fits=fits)
        fitted = manifest.model_copy(
            update={"training": manifest.training.model_copy(update={"feature_fit": record, "train_images": 60})}
        )
        assert len(reference_of(own_images(60), fitted)) == 60
        with pytest.raises(DatasetUnfit, match="12 images that" if fits == 1 else "fitted to all images of own"):
            reference_of(own, fitted)


def test_many_are_spaced_evenly_and_few_are_refused(scorer: Scorer) -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    spaced = EvenlySpaced([images[:30], images[30:]], 12)
    order = spaced[0:12].ravel().tolist()
    assert sorted(order) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99] != order
    assert spaced[3:5].ravel().tolist() == order[3:5]
    assert len(EvenlySpaced([images], 200)) == 100
    fewest = reference_of(own_images(20), scorer.manifest)
    assert len(fewest) == count_image_passes(fewest) == 20
    with pytest.raises(DatasetUnfit, match="own has 19 images to calibrate on, at least 20 are needed"):
        reference_of(own_images(19), scorer.manifest)
    small = own_images(60)
    small = replace(small, digest=scorer.manifest.training.dataset_digest)
    with pytest.raises(DatasetUnfit, match="own has 12 images that training left out"):
        reference_of(small, scorer.manifest)
    wide = replace(own_images(60), train=np.zeros((60, 3, 28, 28), np.uint8))
    with pytest.raises(DatasetUnfit, match=r"3x28x28, this model takes 1x28x28 \(channels x height x width\)"):
        reference_of(wide, scorer.manifest)
    check_summary("mnist-mini", summarize("mnist-mini", None), scorer.manifest)


def test_a_calibration_in_bfloat16_makes_scores_bfloat16(
    registry: Registry, calibrations: CalibrationStore, scorer: Scorer
) -> None:
    told: dict[str, int] = {}
    reference = reference_of(own_images(20), scorer.manifest)
    calibration, summary = scorer.calibrate(
        reference, lambda part, _done, images: told.update({part: images}), "bfloat16"
    )
    assert told["comparison with float32"] == 4
    assert sum(told.values()) == count_image_passes(reference, "bfloat16")
    deviation = summary.deviation
    assert summary.precision == "bfloat16"
    assert deviation.images == 4
    assert 0 < deviation.median <= deviation.quantile_999 <= deviation.worst < 10
    assert deviation.worst_statistic > 0
    calibrations.publish(calibration_bytes(calibration), summary)
    images = reference.calibration[0:4]
    exact = [one.log_likelihood for one in scorer.score(images)]
    now = registry.resolve("digits")
    rounded = load_model(now.path, now.calibration_path, compiled())
    assert (rounded.density.precision, scorer.density.precision) == ("bfloat16", "float32")
    distances = [abs(one.log_likelihood - other) for one, other in zip(rounded.score(images), exact, strict=True)]
    assert max(distances) == pytest.approx(deviation.worst, abs=1e-6)
    # From one that scores in bfloat16 back to one that does not, and the same comparison from there.
    _, back = rounded.calibrate(reference, lambda *_: None)
    assert (back.precision, back.deviation) == ("float32", None)
    assert rounded.calibrate(reference, lambda *_: None, "bfloat16")[1].deviation == deviation
    calibrations.choose(0, scorer.log_det_digest)
    first = registry.resolve("digits")
    again = load_model(first.path, first.calibration_path, compiled())
    assert [one.log_likelihood for one in again.score(images)] == exact


@pytest.mark.parametrize("alpha", USUAL_ALPHAS)
def test_advice_needs_so_many_images_and_not_one_less(alpha: float) -> None:
    needed = images_needed(alpha)
    assert safe_threshold(needed - 1, alpha) is None
    assert safe_threshold(needed, alpha) == 1 / (needed + 1)
