"""Presets, their settings and what they attain."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.training import TrainingConfig
from snf_models.anomaly.reference_images import folds_digest
from snf_models.bijections.conformance import randomise
from snf_models.bijections.dense import SelfNormalizingDense
from snf_models.bijections.pixels import LogitPixels
from snf_models.datasets import Dataset, DatasetStore, Images, load_dataset, summarize
from snf_models.datasets.dataset import DatasetSummary
from snf_models.errors import AlphaUnattainable, DatasetUnfit
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.pipeline import loop
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS, ExpectedRanks, find_preset, parameter_groups, preset_defaults
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import constant_log_dets
from snf_models.training.objective import self_normalizing_layers
from snf_runtime.scoring.pixel_density import content_noise
from tests.models.datasets.upload_files import npz, source
from tests.models.helpers import real_images
from tests.models.training.runs import train_whole
from tests.support.documents import check_table
from tests.support.paths import ROOT

OF_PIXELS = {name for name, preset in PRESETS.items() if preset.family not in ("features", "hybrid")}


def of_different_layers() -> list[str]:
    """The smallest of the presets of pixels that have the same layers and levels in other numbers and widths."""
    smallest: dict[tuple[object, ...], str] = {}
    for name in sorted(OF_PIXELS, key=lambda name: (PRESETS[name].steps * PRESETS[name].width, name)):
        preset = PRESETS[name]
        kind = (preset.family, preset.linear, preset.levels, preset.kernel, preset.defaults.get("pixel_transform"))
        smallest.setdefault(kind, name)
    return sorted(smallest.values())


def cropped(side: int) -> Dataset:
    """Real digits cut to the middle."""
    images = real_images(120, side)
    return Dataset(f"digits-{side}", images[:80], images[80:100], images[100:], images[100:], f"digest-{side}")


@pytest.mark.parametrize("name", of_different_layers())
def test_a_preset_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS_BETWEEN_VALIDATIONS", 12)  # the steps after which a training has a course
    preset = replace(PRESETS[name], width=min(PRESETS[name].width, 32), steps=min(PRESETS[name].steps, 2))
    dataset = cropped(16 if preset.levels == 3 else 8)
    short = {"max_steps": 12, "batch_size": 16, "warmup_steps": 5, "validations": 1, "validation_images": 20}
    config = preset.config({**short, "precision": "float32"})
    architecture = preset.architecture(dataset.image_shape, config.pixel_transform)
    trained = Trainer(dataset, architecture, config, tmp_path, lambda _event: None).run(lambda: False)
    assert trained.last_validation < trained.first_validation


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("glow-3l-32k", (1, 28, 28), "halves both sides 3 times: .*, got 28x28"),
        ("snf-conv-9l", (1, 30, 30), "halves both sides 2 times: .*, got 30x30"),
        ("snf-fc-2l", (3, 64, 64), "at most 4096 dimensions"),
        ("snf-glow-small", (1, 27, 27), "27x27"),
        ("snf-glow-small", (5, 32, 32), "1 to 4 channels"),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, shape: tuple[int, int, int], text: str) -> None:
    with pytest.raises(DatasetUnfit, match=text):
        find_preset(name).architecture(shape, "logit")


def test_what_a_user_asks_for_comes_before_the_preset() -> None:
    preset = find_preset("snf-fc-2l")
    assert preset.config({}).learning_rate == 1e-4
    assert preset.config({"learning_rate": 0.5}).learning_rate == 0.5
    assert preset.config({}).pixel_transform == "logit"


def table() -> str:
    lines = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    for title, parameters in parameter_groups().items():
        lines.append(f"| **{title}** | | | |")
        lines += [f"| `{one.name}` | {one.values} | {one.default} | {one.meaning} |" for one in parameters]
    lines += ["", "Presets with other defaults:", "", "| presets | defaults |", "|---|---|"]
    for names, changed in preset_defaults():
        values = ", ".join(f"`{name}={value}`" for name, value in changed.items())
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {values} |")
    return "\n".join(lines) + "\n"


def test_the_document_lists_all_parameters(request: pytest.FixtureRequest) -> None:
    check_table(ROOT / "docs" / "training.md", table(), request.config)


def test_every_parameter_has_one_group_and_a_meaning() -> None:
    parameters = [one for group in parameter_groups().values() for one in group]
    assert sorted(one.name for one in parameters) == sorted(TrainingConfig.model_fields)
    assert all(one.meaning and one.values for one in parameters)
    shown = {one.name: (one.values, one.default) for one in parameters}
    assert shown["batch_size"] == ("integer, 2 to 4096", "64")
    assert shown["max_minutes"] == ("number, above 0, at most 20160", "unset")
    assert shown["image_size"] == ("integer, 4 to 1024, or two as [height, width]", "unset")
    assert shown["recompute"] == ("true or false", "false")
    assert shown["colour"] == ("exact, grey or rgb", "unset")


def test_the_defaults_of_presets_are_those_that_they_train_with() -> None:
    listed = {name: changed for names, changed in preset_defaults() for name in names}
    assert listed["exact-fc-2l"]["learning_rate"] == "0.0001"
    assert "snf-glow-tiny" not in listed
    for name, changed in listed.items():
        defaults = TrainingConfig.model_validate(changed)
        assert defaults == PRESETS[name].config({}).model_copy(update={"gradient_clip": defaults.gradient_clip})


def test_an_interval_of_checkpoints_without_end_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"checkpoint_seconds\n.*greater than or equal to 0\.1"):
        TrainingConfig(checkpoint_seconds=5e-324)


DATA_DIR = Path(os.environ.get("SNF_DATA_DIR") or "no-such-folder")
SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    if not (DATA_DIR / "mnist.npz").is_file():
        pytest.skip("SNF_DATA_DIR has no mnist.npz")
    return load_dataset("mnist", DATA_DIR)


def dequantised(images: Images) -> Tensor:
    """Pixels with the first draw of the noise that belongs to each image, float64."""
    return torch.from_numpy(images + np.concatenate([content_noise(image, "paper") for image in images]))


def fully_connected(name: str, seed: int = 0) -> Flow:
    """The fully connected model of a preset at its initialisation, float64, evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_flow(find_preset(name).architecture(SHAPE, "logit")).double().eval()


@torch.no_grad()
def log_likelihoods(flow: Flow, images: Images) -> Tensor:
    return torch.cat([flow(dequantised(images[at : at + 500])).log_likelihood for at in range(0, len(images), 500)])


@pytest.mark.data
def test_log_dets_of_the_preprocessing(mnist: Dataset) -> None:
    """+272.69 with a standard error of 1.4 by the published code; 272.7 +- 0.3 in the appendix of November 2020."""
    pixels = LogitPixels()
    log_dets = torch.cat([pixels(dequantised(mnist.test[at : at + 1000]))[1] for at in range(0, 10_000, 1000)])
    assert len(log_dets) == 10_000
    assert float(log_dets.mean()) == pytest.approx(272.7, abs=3)


@pytest.mark.data
def test_likelihood_of_the_fully_connected_model_before_training(mnist: Dataset) -> None:
    """3263.6 nats on all 10,000 validation images by the published code at one draw of its biases.

    Tolerance: the standard error of 5,000 images and the spread over draws of the biases, b ~ N(0, 1/D), the only
    random numbers at W = R = I; both are measured here, three of their joint deviations are allowed for.
    """
    assert len(mnist.statistics) == 5000
    by_image = log_likelihoods(fully_connected("snf-fc-2l"), mnist.statistics)
    some = mnist.statistics[:500]
    by_draw = torch.stack([log_likelihoods(fully_connected("snf-fc-2l", seed), some).mean() for seed in range(6)])
    deviation = float((by_image.var() / len(by_image) + 2 * by_draw.var()).sqrt())
    assert deviation < 10
    assert -float(by_image.mean()) == pytest.approx(3263.6, abs=3 * deviation)


@pytest.mark.data
@torch.no_grad()
def test_exact_and_self_normalizing_models_of_the_same_weights_have_the_same_likelihoods(mnist: Dataset) -> None:
    learned, exact = fully_connected("snf-fc-2l"), fully_connected("exact-fc-2l")
    randomise(learned, 0.01)
    layers = self_normalizing_layers(learned)
    assert [type(layer) for layer in layers] == [SelfNormalizingDense] * 2
    weights = {name: value for name, value in learned.state_dict().items() if not name.endswith("inverse_weight")}
    exact.load_state_dict(weights)
    images = mnist.test[:200]
    expected = log_likelihoods(exact, images)
    assert torch.equal(log_likelihoods(learned, images), expected)
    # What is stored for serving: R plays no part in it.
    assert constant_log_dets(learned, SHAPE) == constant_log_dets(exact, SHAPE)


@pytest.mark.parametrize(
    ("preset", "steps", "parts", "ranks", "needed"),
    [
        ("snf-features", 0, (39, 26, 0, 0, 5), 65, 99),
        ("snf-features", 0, (390, 65, 195, 0, 0), 650, 99),
        ("snf-features", 2, (390, 65, 195, 0, 0), 195, 248),
        ("snf-features", 2, (39, 26, 0, 0, 5), 65, 99),
        ("snf-glow-small", 0, (39, 26, 0, 0, 5), 26, 248),
        ("snf-glow-small", 0, (390, 65, 195, 0, 0), 195, 248),
        ("snf-hybrid", 0, (390, 65, 195, 0, 0), 195, 248),
    ],
)
def test_ranks_follow_from_the_images(
    preset: str, steps: int, parts: tuple[int, int, int, int, int], ranks: int, needed: int
) -> None:
    splits = DatasetSummary((1, 28, 28), *parts, whole_folds=5)
    architecture = find_preset(preset).architecture(splits.image_shape, "marginal")
    expected = ExpectedRanks.of(architecture, TrainingConfig(feature_steps=steps), splits)
    assert (expected.images, expected.images_for_default) == (ranks, needed)
    assert expected.smallest_alpha == 1 / (ranks + 1)
    assert f"among {ranks} images" in expected.sentence
    assert f"takes {needed} good images" in expected.sentence


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> tuple[Scorer, DatasetStore, list[str]]:
    """A model of 150 digits, which the smallest number of images counts as many, as 400 are."""
    folder = tmp_path_factory.mktemp("ranks")
    store, said = DatasetStore(folder / "datasets"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snf_models.datasets.dataset.SMALL", 100)
        store.create("digits", [source(folder / "uploads", npz(images=real_images(150)[:, 0]))])
    config = find_preset("snf-features").config({"feature_side": 32})
    dataset = load_dataset("digits", None, store, config)
    assert dataset.folds is None

    def observe(event: dict[str, Any]) -> None:
        said.append(event.get("message", ""))

    engine = EngineOptions("torch", threads=1, backbones=backbones)
    path = train_whole(dataset, "snf-features", config, folder / "run", observe=observe, engine=engine)
    return load_model(path, options=engine), store, said


def test_every_image_of_many_gives_a_rank(trained: tuple[Scorer, DatasetStore, list[str]]) -> None:
    scorer, store, said = trained
    summary, training = scorer.calibration_summary, scorer.manifest.training
    assert (summary.calibration_images, summary.folds, summary.smallest_p) == (150, 5, 1 / 151)
    assert training.train_images == 150
    assert "p-values are ranks among 150 images: the smallest attainable alpha is 0.0066" in said[0]
    config = TrainingConfig(feature_side=32)
    expected = ExpectedRanks.of(scorer.manifest.architecture, config, summarize("digits", None, store, config))
    assert (expected.images, expected.smallest_alpha) == (150, scorer.calibration.smallest_p)


def test_a_fold_serves_for_a_detection_limit(trained: tuple[Scorer, DatasetStore, list[str]]) -> None:
    scorer, store, _ = trained
    manifest, summary = scorer.manifest, scorer.calibration_summary
    good = good_images("digits", manifest, summary, 100, None, store)
    dataset = load_dataset("digits", None, store)
    assert dataset.whole_folds is not None
    assert summary.folds_sha256 == folds_digest(dataset.whole_folds)
    every = np.concatenate([dataset.train, dataset.statistics, dataset.calibration])
    of_fold = {image.tobytes() for image in every[dataset.whole_folds == 0]}
    assert {image.tobytes() for image in good.pixels[:]} == of_fold
    record = measure_limits(scorer, good, LimitParameters(shapes=("missing-part",), alpha=0.05))
    assert (record.images, record.calibration_images, record.smallest_p) == (30, 30, 1 / 31)
    assert record.undamaged.flagged == 0, "an image does not exceed its own rank"
    with pytest.raises(AlphaUnattainable):
        measure_limits(scorer, good, LimitParameters(alpha=0.01))


def test_folds_that_are_not_known_serve_for_no_limit(trained: tuple[Scorer, DatasetStore, list[str]]) -> None:
    scorer, store, _ = trained
    for digest in (None, "0" * 64):
        other = scorer.calibration_summary.model_copy(update={"folds_sha256": digest})
        with pytest.raises(DatasetUnfit, match="was fitted to all images of digits"):
            good_images("digits", scorer.manifest, other, 100, None, store)
