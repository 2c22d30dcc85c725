"""Every preset through its whole life: train, save, load, freeze, score, sample by every inverse that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.datasets import Dataset, Images, load_dataset
from models.errors import DatasetUnfit, NoLearnedInverse
from models.flows.architecture import FeatureArchitecture, HybridArchitecture
from models.loading import load_artifact
from models.scorer import Scorer
from models.scoring.options import EngineName, EngineOptions
from models.training.loop import Trainer
from models.training.presets import PRESETS, find_preset
from models.training.run import train
from snf_runtime.anomaly.judged import JudgedImage
from snf_runtime.images.dequantisation import content_noise
from tests.models.helpers import flat_latents, jacobian_log_det
from tests.support.backbones import backbone_folder

OF_PIXELS = {name for name, preset in PRESETS.items() if preset.family not in ("features", "hybrid")}


def of_different_layers() -> list[str]:
    """The smallest of the presets of pixels that have the same layers and levels in other numbers and widths."""
    smallest: dict[tuple[object, ...], str] = {}
    for name in sorted(OF_PIXELS, key=lambda name: (PRESETS[name].steps * PRESETS[name].width, name)):
        preset = PRESETS[name]
        kind = (preset.family, preset.linear, preset.levels, preset.kernel, preset.defaults.get("pixel_transform"))
        smallest.setdefault(kind, name)
    return sorted(smallest.values())


WIDE = {name: preset for name, preset in PRESETS.items() if preset.width > 128}
WIDTH, STEPS = 64, 4
"""Width of the coupling networks of wide presets in these tests, and steps a level: their structure, in seconds."""


def cropped(side: int) -> Dataset:
    """Real digits cut to the middle, or for a side beyond theirs padded, so that every preset fits and is quick."""
    dataset = load_dataset("mnist-mini", None)

    def cut(images: Images) -> Images:
        if side > 28:
            pad = (side - 28) // 2
            return np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        start = (28 - side) // 2
        return np.ascontiguousarray(images[:, :, start : start + side, start : start + side])

    parts = {name: cut(getattr(dataset, name)) for name in ("train", "statistics", "calibration", "test")}
    # Scoring costs more than two steps of a wide preset: few held-out images are enough here.
    few = {name: parts[name][:20] for name in ("statistics", "calibration", "test")}
    return Dataset("mnist-mini-cropped", train=parts["train"], **few, digest=f"{dataset.digest}-{side}")


def budget(name: str) -> dict[str, Any]:
    if name in WIDE:
        return {"max_steps": 2, "batch_size": 4, "warmup_steps": 1000}
    return {"max_steps": 30, "batch_size": 16, "warmup_steps": 5}


@dataclass(frozen=True)
class Trained:
    """A preset trained on small digits."""

    dataset: Dataset
    artifact: Path
    events: list[dict[str, Any]]
    engine: EngineOptions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Trained]]:
    """Trains each preset once."""
    monkeypatch = pytest.MonkeyPatch()
    for name, preset in WIDE.items():
        monkeypatch.setitem(PRESETS, name, replace(preset, width=WIDTH, steps=min(preset.steps, STEPS)))

    @cache
    def train_preset(name: str) -> Trained:
        dataset = cropped(16 if "-3l-" in name else 8)
        if name in WIDE:
            dataset = replace(dataset, train=dataset.train[:32])
        config = find_preset(name).config({**budget(name), "validations": 2, "validation_images": 20})
        events: list[dict[str, Any]] = []
        # Graphs take long to compile, and frozen exact layers have those of self-normalizing ones.
        engine = EngineOptions("torch" if name in WIDE or name.startswith("exact-") else "auto", threads=1)
        artifact = train(
            dataset,
            name,
            config,
            tmp_path_factory.mktemp(name),
            observe=events.append,
            should_stop=lambda: False,
            threads=1,
            engine=engine,
        )
        return Trained(dataset, artifact, events, engine)

    yield train_preset
    monkeypatch.undo()


@pytest.mark.parametrize("name", of_different_layers())
def test_a_preset_lives_from_training_to_samples(name: str, trained: Callable[[str], Trained]) -> None:
    preset = trained(name)
    dataset, side, events = preset.dataset, preset.dataset.train.shape[-1], preset.events
    bits = [event["bits_per_dim"] for event in events if event["event"] == "metrics"]
    assert np.isfinite(bits).all()
    if name not in WIDE:
        assert bits[-1] < bits[0] - 0.05

    scorer = Scorer.load(preset.artifact, options=preset.engine)
    images = dataset.test[:5]
    together = [one.log_likelihood for one in scorer.score(images)]
    assert together == [scorer.score(image[None])[0].log_likelihood for image in images]
    assert all(
        sum(t.log_prior + t.log_det for t in one.terms) == pytest.approx(one.log_likelihood, rel=1e-9)
        for one in scorer.score(images)
    )

    exact = scorer.sample(3, temperature=0.5, seed=1)
    assert exact.shape == (3, 1, side, side)
    np.testing.assert_array_equal(exact, scorer.sample(3, temperature=0.5, seed=1))
    if find_preset(name).linear == "self-normalizing":
        learned = scorer.sample_continuous(3, temperature=0.5, seed=1, inverse="learned")
        assert np.isfinite(learned).all()
    else:
        assert not scorer.has_learned_inverse
        with pytest.raises(NoLearnedInverse):
            scorer.sample(1, inverse="learned")


@pytest.mark.parametrize("name", of_different_layers())
def test_what_is_exported_is_what_was_trained(name: str, tmp_path: Path) -> None:
    """Without averaging, the flow that is kept scores as the trained one."""
    preset = PRESETS[name]
    if name in WIDE:
        preset = replace(preset, width=WIDTH, steps=min(preset.steps, STEPS))
    dataset = cropped(16 if "-3l-" in name else 8)
    dataset = replace(dataset, train=dataset.train[:32])
    short = {"max_steps": 3, "batch_size": 8, "warmup_steps": 0, "validations": 1}
    config = preset.config({**short, "ema_decay": 0.0, "precision": "float32"})
    architecture = preset.architecture(dataset.image_shape, config.pixel_transform)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    trainer = Trainer(dataset, architecture, config, tmp_path, lambda _event: None)
    kept = trainer.run(lambda: False).flow
    y, log_det = trainer.flow.pixels(torch.from_numpy(dataset.test[:5]).double() + 0.5)
    scores = [flow.eval().forward_pixels(y.float(), log_det.float()).log_likelihood for flow in (trainer.flow, kept)]
    torch.testing.assert_close(*scores, rtol=1e-6, atol=0)
    assert all(map(torch.equal, kept.buffers(), trainer.flow.buffers()))


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - OF_PIXELS))
def test_a_preset_with_features_lives_from_training_to_verdicts(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With features at 4x4 places, and where there are pixels, few steps of a narrow flow."""
    preset = find_preset(name)
    steps = {"max_steps": 2, "batch_size": 4, "validations": 1, "precision": "float32"}
    config = preset.config({"feature_side": 64} | (steps if preset.family == "hybrid" else {}))
    flows: EngineName = "torch" if name.startswith("exact-") else "auto"
    engine = EngineOptions(flows, threads=1, backbones=backbone_folder(tmp_path_factory))
    whole = load_dataset("mnist-mini", None)
    # The backbone takes its time for each image.
    dataset = replace(whole, train=whole.train[:100], test=whole.test[:20], digest=f"{whole.digest}-few")
    artifact = train(
        dataset, name, config, tmp_path, observe=lambda _event: None, should_stop=lambda: False, engine=engine
    )
    scorer = Scorer.load(artifact, options=engine)
    images = dataset.test[:5]
    together = scorer.judge_each(images, alpha=0.05)
    for image, judged in zip(images, together, strict=True):
        (alone,) = scorer.judge_each(image[None], alpha=0.05)
        assert isinstance(judged, JudgedImage)
        assert isinstance(alone, JudgedImage)
        assert judged.likelihood == alone.likelihood
        assert judged.verdict.p_value == alone.verdict.p_value
        assert 0 < judged.verdict.p_value <= 1
    assert scorer.density.kind == ("density" if preset.family == "hybrid" else "feature_density")
    learned = {kind for kind, _ in artifact_layers(artifact) if kind.endswith("inverse_weight")}
    assert bool(learned) == (preset.linear == "self-normalizing")


def artifact_layers(artifact: Path) -> list[tuple[str, torch.Size]]:
    """Return names and shapes of the weights of a model."""
    return [(name, value.shape) for name, value in load_artifact(artifact).flow.state_dict().items()]


@pytest.mark.parametrize("name", ["snf-fc-2l", "snf-conv-9l", "emerging-conv-9l", "exponential-conv-9l"])
def test_scores_of_the_papers_systems_are_the_density_of_the_unfrozen_flow(
    name: str, trained: Callable[[str], Trained]
) -> None:
    dataset, artifact = trained(name).dataset, trained(name).artifact
    engines: list[EngineName] = ["torch", "auto"]
    precise, scorer = (Scorer.load(artifact, options=EngineOptions(engine)) for engine in engines)
    flow = load_artifact(artifact).flow.double()
    for image in dataset.test[:2]:
        x = torch.from_numpy(image + content_noise(image, scorer.log_det_digest))
        latents = flat_latents(flow, x)
        log_det = jacobian_log_det(lambda sample: flat_latents(flow, sample), x)
        expected = float(((-0.5 * latents.square() - 0.5 * math.log(2 * math.pi)).sum() + log_det.sum()).detach())
        assert precise.score(image[None])[0].log_likelihood == pytest.approx(expected, abs=1e-6)
        assert scorer.score(image[None])[0].log_likelihood == pytest.approx(expected, abs=1e-3)


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
