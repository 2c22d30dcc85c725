"""Evaluation plans, and what makes a model unfit, each by a real training."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snf_client.schemas.training import TrainingConfig
from snf_models.artifacts.card import model_card
from snf_models.artifacts.manifest import MAX_INVERSE_ERROR, FitnessCheck, FitnessRecord, Manifest, read_manifest
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.datasets import Dataset, load_dataset
from snf_models.errors import Interrupted
from snf_models.features.fit import FeatureMoments, choose, one_gaussian
from snf_models.pipeline import artifact as module
from snf_models.pipeline import schedule as validation_plan
from snf_models.pipeline.artifact import (
    EvaluationPlan,
    EvaluationTimeLeft,
    independent_pixels,
    learned_inverse_error,
    measure_fitness,
)
from snf_models.pipeline.loop import TrainedFlow, Trainer
from snf_models.pipeline.presets import PRESETS, find_preset
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.open_density import open_density
from tests.models.helpers import QUICK
from tests.models.training.runs import TORCH, Events, run, small_digits, train_whole, trainer_in
from tests.support.trained import feature_artifact, hybrid_artifact, unfit_artifact

DIGITS = load_dataset("mnist-mini", None)


def digits(statistics: int, calibration: int, test: int) -> Dataset:
    """Handwritten digits with parts of these sizes; digits are repeated."""
    images = np.concatenate([DIGITS.train, DIGITS.test])

    def part(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return images[np.arange(count) % len(images)]

    return replace(DIGITS, statistics=part(statistics), calibration=part(calibration), test=part(test))


def test_the_images_fit_the_time_left() -> None:
    whole = EvaluationPlan.whole(digits(5000, 5000, 10_000), 0.002)
    assert whole.total_seconds == pytest.approx(20_000 * 0.002)
    assert whole.within(200) == whole
    half = whole.within(20)
    assert 19 < half.total_seconds <= 20
    assert half.images["test"] == pytest.approx(5000, abs=30)
    least = {"statistics": 300, "calibration": 400, "test": 200}
    assert whole.within(900 * 0.002 + 0.01).images == least
    assert whole.within(-3).images == least
    few = EvaluationPlan.whole(digits(50, 60, 70), 0.002)
    assert few.within(few.total_seconds).images["test"] == 70


def test_the_images_taken_are_spread_over_the_part() -> None:
    """The first images of a test set are no sample of it: those of MNIST are the easier half."""
    dataset = digits(1000, 1000, 600)
    numbered = np.zeros((1000, 1, 28, 28), np.uint8)
    numbered[:, 0, 0, 0], numbered[:, 0, 0, 1] = np.divmod(np.arange(1000), 256)
    plan = EvaluationPlan({"statistics": 1000, "calibration": 400, "test": 600}, 0.0)
    statistics, calibration, _ = plan.part_of(replace(dataset, calibration=numbered))
    assert statistics is dataset.statistics
    numbers = calibration[:400][:, 0, 0, 0].astype(int) * 256 + calibration[:400][:, 0, 0, 1]
    assert len(set(numbers)) == 400
    assert np.abs(numbers - np.linspace(0, 999, 400)).max() <= 1


def test_time_left_follows_the_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = EvaluationTimeLeft(EvaluationPlan({"statistics": 100, "test": 300}, 0.1), 5)
    now[0] = 20.0  # twice as long as expected
    assert progress.seconds_left("statistics", 100) == pytest.approx(30 * 2 + 5)
    now[0] = 80.0
    assert progress.seconds_left("test", 300) == pytest.approx(5)


def test_a_job_says_that_it_calibrates_with_fewer_images(tmp_path: Path) -> None:
    """A real training of half a second whose parts would take longer; the counts are in its manifest."""
    config = find_preset("snf-glow-tiny").config({"max_minutes": 0.01, "batch_size": 32})
    events: list[dict[str, Any]] = []
    dataset = small_digits()
    parts = {name: getattr(dataset, name).repeat(250, 0) for name in ("statistics", "calibration", "test")}
    dataset = replace(dataset, **parts)
    path = train_whole(dataset, "snf-glow-tiny", config, tmp_path, observe=events.append)
    (said,) = [event["message"] for event in events if event["event"] == "log" and "too short" in event["message"]]
    manifest = read_manifest(path)
    used = manifest.calibration
    assert 300 <= used.statistics_images < 10_000
    calibration_images = used.calibration_images + used.copies
    assert 400 <= calibration_images < 10_000
    assert f"{used.statistics_images} of 10000 statistics, {calibration_images} of 10000 calibration" in said
    assert 200 <= manifest.evaluation.test_images < 10_000
    assert len(load_model(path, options=TORCH).detect(dataset.test[:2])) == 2


def test_progress_rises_to_the_end_of_the_evaluation(tmp_path: Path) -> None:
    config = find_preset("snf-glow-tiny").config(
        {"max_steps": 8, "batch_size": 32, "validations": 1, "validation_images": 20}
    )
    events: list[dict[str, Any]] = []
    train_whole(small_digits(), "snf-glow-tiny", config, tmp_path, observe=events.append)
    told = [event for event in events if "progress" in event]
    fractions = [event["progress"] for event in told]
    assert fractions == sorted(fractions)
    last_step = max(event["progress"] for event in told if event["event"] == "metrics")
    assert last_step < 0.95
    scoring = [event for event in told if event["event"] == "scoring"]
    assert scoring[0]["eta_seconds"] > scoring[-1]["eta_seconds"] > 0
    assert scoring[-1]["progress"] < 1


FITNESS_DIGITS = load_dataset("mnist-mini", None)
DIVERGING = QUICK.model_copy(
    update={
        "max_steps": 20,
        "validations": 2,
        "batch_size": 16,
        "learning_rate": 1.0,
        "warmup_steps": 20,
        "final_learning_rate": 1.0,
        "ema_decay": 0.0,
    }
)
"""A learning rate that grows until every step does harm, but none to values that are not finite."""


def checks_of(manifest: Manifest) -> dict[str, FitnessCheck]:
    assert manifest.fitness is not None
    return {check.measure: check for check in manifest.fitness.checks}


def trained_on_small_digits(folder: Path, config: TrainingConfig) -> Manifest:
    path = train_whole(small_digits(), "snf-glow-tiny", config, folder)
    return read_manifest(path)


def quiet(_part: str, _done: int, _total: int) -> None:
    """Take a report of progress."""


def validate_every(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Let short trainings have several validations, which would take too large a share of their time."""
    patch.setattr(validation_plan, "STEPS_BETWEEN_VALIDATIONS", steps)
    patch.setattr(validation_plan, "PLANNED_SHARE", 100.0)


def test_independent_pixels_have_the_code_length_of_the_smoothed_histogram_of_each_channel() -> None:
    train_images = np.array([[[[0, 0]], [[7, 9]]], [[[0, 3]], [[7, 7]]]], dtype=np.uint8)  # 2 images of 2x1x2
    images = np.array([[[[0, 3]], [[7, 200]]]], dtype=np.uint8)
    first = [-math.log2((3 + 1) / (4 + 256)), -math.log2((1 + 1) / (4 + 256))]
    second = [-math.log2((3 + 1) / (4 + 256)), -math.log2((0 + 1) / (4 + 256))]
    np.testing.assert_allclose(independent_pixels(train_images, images), [np.mean(first + second)])


def test_one_step_is_hardly_trained_and_more_steps_are_not(
    tmp_path_factory: pytest.TempPathFactory, artifact: Path
) -> None:
    one_step, six_steps = read_manifest(unfit_artifact(tmp_path_factory)), read_manifest(artifact)
    (failed,) = one_step.unfit
    assert (failed.code, failed.found) == ("hardly-trained", pytest.approx(one_step.evaluation.validation_bits_per_dim))
    values, counts = np.unique(FITNESS_DIGITS.train, return_counts=True)
    bits = np.full(256, -math.log2(1 / (FITNESS_DIGITS.train.size + 256)))
    bits[values] = -np.log2((counts + 1) / (FITNESS_DIGITS.train.size + 256))
    assert failed.limit == pytest.approx(bits[FITNESS_DIGITS.statistics].mean())
    assert failed.found >= failed.limit
    assert "not below" in failed.sentence
    assert not six_steps.unfit
    assert checks_of(six_steps)["pixels"].limit == failed.limit
    card = model_card(one_step)
    assert card.index(f"**This model is unfit and does not become live by itself: {failed.sentence}.**") < 30
    assert "unfit" not in model_card(six_steps)


def test_a_training_whose_last_validation_is_worse_than_its_first_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate_every(10, monkeypatch)
    manifest = trained_on_small_digits(tmp_path, DIVERGING)
    check = checks_of(manifest)["validation"]
    assert check.found > check.limit
    assert "diverged" in {failed.code for failed in manifest.unfit}
    assert manifest.evaluation.validation_bits_per_dim is not None


def test_a_flow_that_overfits_has_not_diverged(tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out images become worse and the few training images do not: the best validation's weights are kept."""
    validate_every(15, monkeypatch)
    dataset = replace(small_digits(), train=small_digits().train[:8])
    steep = {"max_steps": 30, "validations": 2, "batch_size": 8, "learning_rate": 1e-2, "final_learning_rate": 1e-2}
    config = QUICK.model_copy(update={**steep, "ema_decay": 0.0})
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    events: Events = []
    trained = Trainer(dataset, architecture, config, tmp_path, events.append).run(lambda: False)
    assert trained.last_validation > trained.first_validation > trained.last_training
    assert trained.best_step == 15
    assert "weights of step 15 are kept" in next(event["message"] for event in events if event["event"] == "log")

    def course(of: TrainedFlow) -> FitnessCheck:
        record = measure_fitness(scorer.density, FITNESS_DIGITS, -1.0, 0.0, quiet, pixels=of, features=None)
        return next(check for check in record.checks if check.code == "diverged")

    overfitted = course(trained)
    assert (overfitted.measure, overfitted.passed, overfitted.found) == ("training", True, trained.last_training)
    assert "overfitted" in overfitted.sentence
    for worse in (trained.first_validation + 0.1, None):
        check = course(replace(trained, last_training=worse))
        assert (check.measure, check.passed, check.found) == ("validation", False, trained.last_validation)


def test_first_and_last_validation_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate_every(2, monkeypatch)
    config = QUICK.model_copy(update={"max_steps": 6, "validations": 3, "batch_size": 8})
    whole, events = run(tmp_path / "whole", config=config)
    bits = [event["bits_per_dim"] for event in events if event["event"] == "validation"]
    assert (whole.state.first_validation, whole.state.last_validation) == (bits[0], bits[-1])
    assert len(bits) == 3
    run(tmp_path / "parts", config=config, stop_at=3)
    parts, _ = run(tmp_path / "parts", config=config)
    assert (parts.state.first_validation, parts.state.last_validation) == (bits[0], bits[-1])
    single = run(tmp_path / "single", config=QUICK.model_copy(update={"max_steps": 1}))[0]
    assert single.state.first_validation is not None
    assert single.state.last_validation is None, "one validation has no course"


def test_a_checkpoint_of_an_earlier_version_has_no_first_validation(tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path)
    with pytest.raises(Interrupted):
        trainer.run(lambda: trainer.state.step >= 2)
    (state_file,) = tmp_path.glob("checkpoints/*/state.json")
    document = json.loads(state_file.read_text())
    for name in ("first_validation", "last_validation", "validation_seconds"):
        del document["state"][name]
    state_file.write_text(json.dumps(document))
    resumed, events = run(tmp_path)
    assert "continues from step 2" in events[0]["message"]
    assert resumed.state.first_validation is not None


def test_a_perturbed_learned_inverse_is_off(scorer: Scorer) -> None:
    images = FITNESS_DIGITS.statistics[:20]
    flow = copy.deepcopy(scorer.trained.flows)
    digest = scorer.log_det_digest

    def error_of() -> float:
        density = open_density(flow, scorer.manifest.architecture, scorer.manifest.log_dets.layers, digest, TORCH)
        return learned_inverse_error(density, images, quiet)

    before = error_of()
    check = checks_of(scorer.manifest)["learned-inverse"]
    assert check.passed
    assert before == pytest.approx(check.found, rel=0.3), "the first 20 images are like all of them"
    layer = next(module for module in flow.modules() if isinstance(module, SelfNormalizingConv1x1))
    with torch.no_grad():
        layer.inverse_weight.mul_(1.2)
    off = error_of()
    assert off > MAX_INVERSE_ERROR
    failed = FitnessCheck(measure="learned-inverse", found=off, limit=MAX_INVERSE_ERROR)
    assert (failed.passed, failed.code) == (False, "learned-inverse-off")


def test_one_gaussian_for_all_places_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    x = (generator.standard_normal((40, 3, 4, 5)) + np.arange(5)).astype(np.float32)
    folds = np.arange(40) % 2
    moments = FeatureMoments((3, 4, 5), 2)
    moments.add(x, folds)
    expected = []
    for fold in (0, 1):
        places = x[folds != fold].transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
        covariance = np.cov(places.T, bias=True)
        # The fit adds 1e-3 to the diagonal of channels that are divided by their deviation about the means of places.
        about = x[folds != fold] - x[folds != fold].mean(0)
        covariance += 1e-3 * np.diag(about.transpose(0, 2, 3, 1).reshape(-1, 3).var(0))
        held = x[folds == fold].transpose(0, 2, 3, 1).reshape(-1, 3)
        density = stats.multivariate_normal(places.mean(0), covariance)
        expected.append(-density.logpdf(held).mean() / 3)
    assert one_gaussian(moments, [0, 1]) == pytest.approx(np.mean(expected), rel=1e-4)
    assert choose(moments, [0, 1])[0].held_out_nats < one_gaussian(moments, [0, 1]), "the means depend on the place"


def test_features_must_be_above_one_gaussian_and_a_hybrid_must_pass_all(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    features = checks_of(read_manifest(feature_artifact(tmp_path_factory)))
    assert features.keys() == {"features"}
    assert features["features"].passed
    hybrid = checks_of(read_manifest(hybrid_artifact(tmp_path_factory)))
    assert hybrid.keys() == {"pixels", "features", "learned-inverse"}


@pytest.mark.parametrize(
    ("measure", "good", "bad"),
    [
        ("pixels", 0.9, 1.0),
        ("features", 1.1, 1.0),
        ("validation", 1.0, 1.1),
        ("training", 1.0, 1.1),
        ("learned-inverse", 1.0, 1.1),
    ],
)
def test_a_figure_keeps_its_limit_or_not(measure: str, good: float, bad: float) -> None:
    checks = [
        FitnessCheck.model_validate({"measure": measure, "found": found, "limit": 1.0}) for found in (good, bad, None)
    ]
    assert [check.passed for check in checks] == [True, False, False]
    record = FitnessRecord(checks=tuple(checks))
    assert record.failed == tuple(checks[1:])
    assert FitnessRecord.model_validate_json(record.model_dump_json()) == record
    for check in checks:
        assert check.sentence.startswith(check.code.replace("-", " ")) is not check.passed
    assert "no finite number" in checks[2].sentence


def test_dirty_images_do_not_make_a_model_unfit(tmp_path: Path) -> None:
    """A flow that leaves suspects out finds them ever less likely: they count for neither of the two densities."""
    dataset = small_digits()
    manifest = trained_on_small_digits(tmp_path, QUICK.model_copy(update={"max_steps": 4, "suspect_share": 0.1}))
    check = checks_of(manifest)["pixels"]
    assert check.found < manifest.evaluation.validation_bits_per_dim
    independent = np.sort(independent_pixels(dataset.train, dataset.statistics))
    assert check.limit == pytest.approx(independent[: len(independent) - len(independent) // 10].mean())
