"""Models of every layer type and preset, each trained twice, with an interruption and without, and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snf_models.audit import recompute, recompute_features
from snf_models.bijections.base import SelfNormalizing, Shape
from snf_models.datasets import Dataset, load_dataset
from snf_models.errors import Interrupted
from snf_models.features.flows import FeatureFlows, HybridFlows, TrainedFlows
from snf_models.flows.architecture import Architecture, FeatureArchitecture
from snf_models.flows.flow import Flow, walk
from snf_models.flows.layers import layer_types
from snf_models.loading.trained import Artifact, load_artifact
from snf_models.pipeline import run
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS, Preset, TrainingRecipe
from snf_models.scoring import EngineOptions
from snf_models.training.objective import inverse_quality
from tests.models.flows.test_layers import example
from tests.models.helpers import real_images
from tests.models.pipeline.test_architecture_file import BUDGET, with_layer

LAYERS = [kind.type_name() for kind in layer_types()]
WIDTH, STEPS = 16, 2
"""Width of the coupling networks of presets in these tests, and steps a level: their structure, in a second."""
SETTINGS = {**BUDGET, "batch_size": 8, "ema_decay": 0.0, "precision": "float32"}
"""Settings of a few steps without averaging, so that what is kept is what was trained."""
INTERRUPTED = 2
"""Steps until the interruption."""
TOLERANCE = 1e-6
"""Largest relative difference of a served score from that of the trained flow in float64."""
NORM_ERROR = 0.02
"""Share by which a norm may be underestimated by the power iteration of the bounds."""


def digits(side: int, test_images: int = 2) -> Dataset:
    """Return real digits, cropped to a side."""
    images = real_images(140, side)
    parts = {name: images[80 + 20 * n : 88 + 20 * n] for n, name in enumerate(("statistics", "calibration", "test"))}
    parts["test"] = parts["test"][:test_images]
    return Dataset(f"digits-{side}", train=images[:80], **parts, digest=f"digest-{side}")


def whole_digits() -> Dataset:
    """Return few whole digits to fit features to: a backbone takes its time for each."""
    whole = load_dataset("mnist-mini", None)
    counts = {"train": 60, "statistics": 8, "calibration": 8, "test": 2}
    parts = {name: getattr(whole, name)[:count] for name, count in counts.items()}
    return replace(whole, **parts, digest=f"{whole.digest}-few")


@dataclass(frozen=True)
class CheckedModel:
    """What is trained."""

    name: str
    recipe: TrainingRecipe
    dataset: Dataset
    parameters: dict[str, Any]

    @property
    def key(self) -> str:
        """What is the same for presets that differ in sizes which are not those of these tests."""
        if not isinstance(self.recipe, Preset):
            return self.name
        config = self.recipe.config(self.parameters)
        sizes = (self.recipe.levels, self.recipe.kernel, self.recipe.width, self.recipe.steps)
        return f"{self.recipe.family} {self.recipe.linear} {sizes} {config.model_dump_json()}"

    @classmethod
    def of_layer(cls, name: str) -> CheckedModel:
        """Return a flow of two levels with a layer of a type beside a coupling."""
        layer = next(example(kind) for kind in layer_types() if kind.type_name() == name)
        # The document is parsed as from its file.
        document = json.loads(json.dumps(with_layer(layer, multiplier="geco", ema_decay=0.0)))
        return cls(name, parse_architecture(document), digits(8), {})

    @classmethod
    def of_preset(cls, name: str) -> CheckedModel:
        """Return a preset, with fewer steps of narrower couplings."""
        preset = PRESETS[name]
        if preset.family == "features":
            return cls(name, preset, whole_digits(), {"feature_side": 64})
        if preset.family == "hybrid":
            return cls(name, small(preset), whole_digits(), {**SETTINGS, "feature_side": 32})
        return cls(name, small(preset), digits(16 if preset.levels == 3 else 8), SETTINGS)


def small(preset: Preset) -> Preset:
    """Return a preset with fewer steps of narrower couplings."""
    return replace(preset, width=min(preset.width, WIDTH), steps=min(preset.steps, STEPS))


@dataclass(frozen=True)
class Undisturbed:
    """A training without interruption: its flows in memory, and the flow over pixels whose weights were trained."""

    kept: TrainedFlows
    trained: Flow | None


@dataclass(frozen=True)
class TrainedTwice:
    """A model that was interrupted, resumed and exported, and the same training undisturbed."""

    folder: Path
    exported: Artifact
    undisturbed: Undisturbed
    backbones: Path

    @property
    def architecture(self) -> Architecture:
        """The architecture."""
        return self.exported.manifest.architecture

    def trained_score(self, image: NDArray[np.uint8]) -> float:
        """Return the log-likelihood of an image ``(1, C, H, W)`` by the weights that were trained, in float64."""
        trained = self.undisturbed.trained
        return self._score(self.undisturbed.kept if trained is None else trained, image)

    def exported_score(self, image: NDArray[np.uint8]) -> float:
        """Return the log-likelihood of an image ``(1, C, H, W)`` by the exported weights, in float64."""
        return self._score(self.exported.flow, image)

    def _score(self, flows: TrainedFlows, image: NDArray[np.uint8]) -> float:
        if isinstance(flows, FeatureFlows):
            assert isinstance(self.architecture, FeatureArchitecture)
            return recompute_features(flows, self.architecture, EngineOptions(backbones=self.backbones), image)[0]
        log_dets = self.exported.manifest.log_dets
        return recompute(pixels_of(flows), log_dets.weights_sha256, image)[0]


def pixels_of(flows: TrainedFlows) -> Flow:
    """Return the flow over pixels of a model that has one."""
    flow = flows.pixels if isinstance(flows, HybridFlows) else flows
    assert isinstance(flow, Flow)
    return flow


def train_twice(model: CheckedModel, folder: Path, backbones: Path) -> TrainedTwice:
    """Train, interrupt, resume and export a model, and train it undisturbed."""
    trainers: list[Trainer] = []

    def train(into: Path, *, stop_at: int | None = None) -> Path:
        return run.train(
            model.dataset,
            model.recipe,
            model.recipe.config(model.parameters),
            folder / into,
            observe=lambda _event: None,
            # A fit of features has no steps.
            should_stop=lambda: stop_at is not None and (not trainers or trainers[-1].state.step >= stop_at),
            threads=1,
            engine=EngineOptions("torch", threads=1, backbones=backbones),
        )

    with remembered(trainers):
        with pytest.raises(Interrupted, match=f"after step {INTERRUPTED}|while fitting"):
            train(Path("resumed"), stop_at=INTERRUPTED)
        artifact = train(Path("resumed"))
        trainers.clear()
        with patch.object(run, "write_artifact") as written:
            train(Path("undisturbed"))
    kept = next(argument.flows for argument in written.call_args.args if hasattr(argument, "flows"))
    trained = trainers[-1].flow.eval() if trainers else None
    return TrainedTwice(artifact, load_artifact(artifact), Undisturbed(kept, trained), backbones)


@contextmanager
def remembered(trainers: list[Trainer]) -> Iterator[None]:
    """Append every trainer that is made in a ``with`` block to a list."""

    def make(*args: Any, **kwargs: Any) -> Trainer:
        trainers.append(Trainer(*args, **kwargs))
        return trainers[-1]

    with patch.object(run, "Trainer", make):
        yield


def same_weights(one: TrainedFlows, other: TrainedFlows) -> bool:
    """Return whether all weights and buffers of two models are equal to the bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def learned_inverses(flows: TrainedFlows, image_shape: Shape) -> str:
    """Return "bounded" if each learned inverse R is within its reported bound of the exact W⁻¹, "none" without any."""
    features = flows.features if isinstance(flows, HybridFlows) else flows if isinstance(flows, FeatureFlows) else None
    errors = [] if features is None else features.reconstruction_errors()
    if errors and max(errors) >= TOLERANCE:
        return f"off by {max(errors):.2g}"
    if isinstance(flows, FeatureFlows):
        return "bounded" if errors else "none"
    flow = pixels_of(flows)
    qualities = inverse_quality(flow, image_shape)
    for _, steps, _ in walk(flow, image_shape):
        for name, layer, shape in steps:
            if isinstance(layer, SelfNormalizing):
                distance, bound = distance_from_inverse(layer, shape), qualities[name].bound
                if bound is None or not distance <= (1 + NORM_ERROR) * bound + TOLERANCE:
                    return f"{name}: distance {distance:.2g}, bound {bound}"
    return "bounded" if qualities else "none"


@torch.no_grad()
def distance_from_inverse(layer: SelfNormalizing, shape: Shape) -> float:
    """Return ||W⁻¹ - R|| in the spectral norm, from the matrices of W and R for images of a shape."""
    basis = torch.eye(int(np.prod(shape))).view(-1, *shape)
    weight, inverse = (apply(basis).flatten(1).T.double() for apply in (layer.apply_weight, layer.apply_inverse_weight))
    return float(torch.linalg.matrix_norm(torch.linalg.inv(weight) - inverse, 2))
