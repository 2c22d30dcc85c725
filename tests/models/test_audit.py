"""Audits agree with the Jacobian, and find a log-det, a weight or a score that is not what it should be."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snf_app.audits.endpoints import audit_view
from snf_app.registry.model_pool import ServedModel
from snf_client.schemas.calibrations import Deviation
from snf_models.audit import audit, count_images, recompute
from snf_models.bijections.conformance import jacobian_log_det, randomise
from snf_models.bijections.local_affine import cell_of_places
from snf_models.errors import BackboneMissing, SamplesUnsupported
from snf_models.features.backbones import BackboneStore
from snf_models.features.extractor import TorchExtractor
from snf_models.loading.trained import load_artifact
from snf_models.loading.verification import exact_tolerance
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.pipeline.presets import TrainingRecipe, find_preset
from snf_models.registry.registry import ModelVersion
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineName, EngineOptions
from snf_runtime.scoring.pixel_density import dequantise
from tests.models.helpers import QUICK, flat_latents, glow, real_images
from tests.models.pipeline.test_presets import cropped
from tests.models.training.runs import train_whole
from tests.support.compiled_cache import compiled
from tests.support.trained import feature_artifact, hybrid_artifact


def test_stored_images_come_first_and_samples_fill_up(scorer: Scorer) -> None:
    stored = len(scorer.pinned)
    found = [audit(scorer, index) for index in range(stored + 2)]
    assert [one.source for one in found] == ["pinned"] * stored + ["sample"] * 2
    images = np.concatenate([scorer.pinned, scorer.sample(2, seed=0)])
    for one, score in zip(found, scorer.score(images), strict=True):
        assert one.log_likelihood == pytest.approx(score.log_likelihood, abs=1e-4)
        assert 0 < abs(one.recomputed - one.log_likelihood) <= scorer.tolerance(one.recomputed) < 2e-3
        assert one.seconds > 0
    again = audit(scorer, stored + 1)
    assert (again.log_likelihood, again.recomputed) == (found[-1].log_likelihood, found[-1].recomputed)


def test_what_is_computed_anew_is_the_jacobian() -> None:
    flow = glow(8)
    image = real_images(1, 8)
    before = {name: one.clone() for name, one in flow.state_dict().items()}
    log_likelihood, log_dets = recompute(flow.eval(), "digest", image)
    assert all(torch.equal(one, flow.state_dict()[name]) for name, one in before.items())
    assert next(flow.parameters()).dtype == torch.float32

    flow.double().requires_grad_(False)
    x = torch.from_numpy(dequantise(image, "digest"))
    latents = flat_latents(flow, x)
    base = -0.5 * latents.square().sum() - 0.5 * x.numel() * np.log(2 * np.pi)
    expected = base + jacobian_log_det(lambda sample: flat_latents(flow, sample), x)[0]
    assert log_likelihood == pytest.approx(float(expected), abs=1e-7)
    for name, value in log_dets.items():
        layer, shape = flow.get_submodule(name), (4, 4, 4) if name.startswith("levels.0") else (8, 2, 2)
        by_hand = jacobian_log_det(lambda one, layer=layer: layer(one)[0].flatten(1), torch.zeros(1, *shape).double())
        assert value == pytest.approx(float(by_hand[0]), abs=1e-9)


def test_a_log_det_of_other_weights_is_found(artifact: Path, scorer: Scorer) -> None:
    """The cached number of one layer is off by a nat: so is every score, and nothing that is computed anew."""
    loaded = load_artifact(artifact)
    log_dets = loaded.manifest.log_dets
    layer = next(iter(log_dets.layers))
    wrong = log_dets.model_copy(update={"layers": log_dets.layers | {layer: log_dets.layers[layer] + 1}})
    manifest = loaded.manifest.model_copy(update={"log_dets": wrong})
    right, off = (audit(one, 0) for one in (scorer, Scorer.of(replace(loaded, manifest=manifest), options=compiled())))
    assert off.log_likelihood == pytest.approx(right.log_likelihood + 1, abs=1e-9)
    assert off.recomputed == right.recomputed
    assert off.log_dets == right.log_dets
    assert log_dets.layers == pytest.approx(right.log_dets, abs=1e-9)


def test_frozen_weights_that_differ_from_the_trained_ones_are_found(artifact: Path) -> None:
    loaded = load_artifact(artifact)
    scorer = Scorer.of(loaded, options=compiled())
    randomise(loaded.flow, 0.01, seed=3)
    found = audit(scorer, 0)
    assert abs(found.log_likelihood - found.recomputed) > 0.1


def test_bfloat16_is_allowed_what_its_calibration_measured(artifact: Path, scorer: Scorer) -> None:
    loaded, precise = load_artifact(artifact), scorer
    deviation = Deviation(images=100, median=0.01, quantile_999=0.2, worst=0.25, worst_statistic=0.1)
    changes = {"precision": "bfloat16", "deviation": deviation}
    scorer = Scorer.of(loaded, loaded.manifest.calibration.model_copy(update=changes), options=compiled())
    found = [audit(scorer, index) for index in range(4)]
    assert scorer.density.precision == "bfloat16"
    assert (exact_tolerance(scorer.density.dimensions, -900.0), scorer.tolerance(-900.0)) == (1e-3, 1e-3 + 2 * 0.25)
    assert 1e-3 < max(abs(one.log_likelihood - one.recomputed) for one in found) <= scorer.tolerance(-900.0)
    assert [one.recomputed for one in found] == [audit(precise, index).recomputed for index in range(4)]


def patterns(side: int = 28) -> NDArray[np.uint8]:
    """Images that no flow of digits expects: a chessboard, stripes, noise, black, white, a gradient."""
    rows, columns = np.indices((side, side))
    noise = np.random.default_rng(0).integers(0, 256, (side, side))
    made = [(rows + columns) % 2 * 255, columns % 2 * 255, rows % 2 * 255, noise, 0 * rows, 0 * rows + 255, rows * 9]
    return np.stack(made).astype(np.uint8)[:, None]


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_very_unlikely_images_are_within_a_millionth(artifact: Path, engine: EngineName) -> None:
    scorer = load_model(artifact, options=compiled(name=engine))
    images = patterns()
    scores = [one.log_likelihood for one in scorer.score(images)]
    exact = [recompute(scorer.trained.flows, scorer.log_det_digest, image[None])[0] for image in images]
    assert min(exact) < -10_000
    for score, expected in zip(scores, exact, strict=True):
        assert abs(score - expected) <= max(1e-3, 1e-6 * abs(expected))


CONVOLUTIONS: list[dict[str, Any]] = [
    {"type": name} for name in ("self-normalizing-convolution", "spline", "emerging-convolution")
]


@pytest.mark.parametrize(
    "recipe",
    [parse_architecture({"name": "convolutions", "levels": [{"steps": CONVOLUTIONS}]}), find_preset("exact-fc-2l")],
    ids=lambda recipe: recipe.name,
)
def test_other_layers_than_those_of_a_glow(recipe: TrainingRecipe, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"max_steps": 2})
    path = train_whole(cropped(8), recipe, config, tmp_path, engine=compiled())
    scorer = load_model(path, options=compiled())
    found = audit(scorer, 0)
    assert abs(found.log_likelihood - found.recomputed) <= scorer.tolerance(found.recomputed)
    assert found.log_dets == pytest.approx(scorer.manifest.log_dets.layers, abs=1e-7)
    assert len(found.log_dets) > 1


@pytest.fixture(scope="module")
def options(backbones: Path) -> EngineOptions:
    return compiled(backbones=backbones)


def loaded(scorer: Scorer) -> ServedModel:
    return ServedModel(ModelVersion("parts", 1, Path(), read_only=False, stamp=None), scorer)


def test_a_score_of_features_is_that_of_normal_densities_at_every_place(features: Scorer, backbones: Path) -> None:
    architecture, flows = features.manifest.architecture, features.trained.flows
    store = BackboneStore(backbones)
    backbone = store.by_digest(architecture.backbone, architecture.backbone_sha256)
    extract = TorchExtractor(backbone, store.arrays(backbone), architecture.input_size, torch.float64)
    layer, _ = next(flows.fits())
    cells = cell_of_places(architecture.rows, architecture.columns, layer.grid)
    whiten, mean = layer.weight.detach().double()[cells], layer.mean.detach().double()
    for index in range(len(features.pinned)):
        found = audit(features, index)
        x, _ = extract.features(features.pinned[index : index + 1])
        precision = whiten.mT @ whiten
        normal = torch.distributions.MultivariateNormal(mean.flatten(1).T, precision_matrix=precision)
        expected = float(normal.log_prob(x[0].flatten(1).T).sum())
        assert found.recomputed == pytest.approx(expected, rel=1e-9)
        assert found.source == "pinned"
        assert abs(found.log_likelihood - found.recomputed) <= features.tolerance(found.recomputed)
    assert (
        found.log_det_total == found.log_dets["places.0"] == pytest.approx(features.density.constant_log_det, abs=1e-9)
    )
    assert found.log_dets == pytest.approx(features.manifest.log_dets.layers, abs=1e-9)


def test_only_stored_images_are_audited_without_samples(features: Scorer, hybrid: Scorer) -> None:
    stored = len(features.pinned)
    assert (count_images(features, 16), count_images(features, 1)) == (stored, 1)
    assert count_images(hybrid, 16) == 16
    with pytest.raises(SamplesUnsupported):
        audit(features, stored)
    assert audit(hybrid, len(hybrid.pinned)).source == "sample"


def test_a_hybrid_is_audited_by_its_pixels_with_the_log_dets_of_its_features(hybrid: Scorer) -> None:
    found = audit(hybrid, 0)
    assert abs(found.log_likelihood - found.recomputed) <= hybrid.tolerance(found.recomputed)
    assert found.log_dets == pytest.approx(hybrid.manifest.log_dets.layers, abs=1e-7)
    assert {name.partition(".")[0] for name in found.log_dets} == {"pixels", "features"}
    pixels = sum(value for name, value in found.log_dets.items() if name.startswith("pixels."))
    assert found.log_det_total == pytest.approx(pixels) == pytest.approx(hybrid.density.constant_log_det, abs=1e-7)
    assert audit_view(loaded(hybrid), [found]).agrees


@pytest.mark.parametrize("of_pixels", [False, True])
def test_a_log_det_of_features_that_differs_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    options: EngineOptions,
    features: Scorer,
    hybrid: Scorer,
    of_pixels: bool,
) -> None:
    """In a hybrid model it is in no score."""
    artifact = load_artifact((hybrid_artifact if of_pixels else feature_artifact)(tmp_path_factory))
    log_dets = artifact.manifest.log_dets
    layer = "features.places.0" if of_pixels else "places.0"
    wrong = log_dets.model_copy(update={"layers": log_dets.layers | {layer: log_dets.layers[layer] + 5}})
    manifest = artifact.manifest.model_copy(update={"log_dets": wrong})
    right = hybrid if of_pixels else features
    off = Scorer.of(replace(artifact, manifest=manifest), options=options)
    expected, found = audit(right, 0), audit(off, 0)
    assert audit_view(loaded(right), [expected]).agrees
    assert not audit_view(loaded(off), [found]).agrees
    difference = 0 if of_pixels else 5
    assert found.log_likelihood == pytest.approx(expected.log_likelihood + difference, abs=1e-6)


def test_the_backbone_must_be_there(features: Scorer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert math.isfinite(features.score(features.pinned[:1])[0].log_likelihood)
    with pytest.raises(BackboneMissing, match="snf backbones add"):
        load_model(feature_artifact(tmp_path_factory), options=EngineOptions(backbones=tmp_path))
