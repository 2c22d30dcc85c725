"""Audits of models with features: extracted and whitened anew in float64, and all log-dets compared."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from snf_app.audits.endpoints import audit_view
from snf_app.registry.model_pool import ServedModel
from snf_models.audit import audit, count_images
from snf_models.bijections.local_affine import cell_of_places
from snf_models.errors import BackboneMissing, SamplesUnsupported
from snf_models.features.backbones import BackboneStore
from snf_models.features.extractor import TorchExtractor
from snf_models.features.flows import FeatureFlows, HybridFlows
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.loading.trained import load_artifact
from snf_models.registry.registry import ModelVersion
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.options import EngineOptions
from tests.support.compiled_cache import compiled
from tests.support.trained import feature_artifact, hybrid_artifact


@pytest.fixture(scope="module")
def options(backbones: Path) -> EngineOptions:
    return compiled(backbones=backbones)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, options: EngineOptions) -> Scorer:
    return load_model(feature_artifact(tmp_path_factory), options=options)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory, options: EngineOptions) -> Scorer:
    return load_model(hybrid_artifact(tmp_path_factory), options=options)


def loaded(scorer: Scorer) -> ServedModel:
    return ServedModel(ModelVersion("parts", 1, Path(), read_only=False, stamp=None), scorer)


def test_a_score_of_features_is_that_of_normal_densities_at_every_place(features: Scorer, backbones: Path) -> None:
    architecture, flows = features.manifest.architecture, features.trained.flows
    assert isinstance(architecture, FeatureArchitecture)
    assert isinstance(flows, FeatureFlows)
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
    assert isinstance(hybrid.trained.flows, HybridFlows)
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
