"""Recipes of the shipped models: files beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snf_client.schemas.training import MAX_STEPS
from snf_models.artifacts.manifest import read_manifest
from snf_models.bijections.channels import ActNorm, SelfNormalizingConv1x1
from snf_models.datasets import load_dataset
from snf_models.flows.build import build_flow
from snf_models.registry.registry import ZOO
from snf_models.zoo.__main__ import DATASETS, MINUTES, recipe_of
from tests.models.helpers import dequantised


def test_every_shipped_model_has_a_recipe() -> None:
    models = {path.name for path in ZOO.iterdir() if (path / "1").is_dir()}
    assert models == {path.stem for path in ZOO.glob("*.json")} == set(DATASETS)


@pytest.mark.parametrize("name", sorted(DATASETS))
@torch.no_grad()
def test_a_recipe_starts_from_white_images_of_the_shape_of_its_model(name: str) -> None:
    recipe, manifest = recipe_of(name), read_manifest(ZOO / name / "1")
    config = recipe.config({"max_minutes": MINUTES})
    assert (recipe.name, manifest.training.dataset) == (name, DATASETS[name])
    assert (config.max_steps, config.whitening) == (MAX_STEPS, True)
    flow = build_flow(recipe.architecture_for(manifest.architecture.image_shape, config))
    shape = manifest.architecture.image_shape
    pixels = np.resize(load_dataset("mnist-mini", None).train, (100, *shape))
    x = dequantised(pixels).float()
    flow.initialize(x, whiten=config.whitening)
    for level in flow.level_list():
        rotation, scaling = level.steps[0], level.steps[1]
        assert isinstance(rotation, SelfNormalizingConv1x1)
        assert isinstance(scaling, ActNorm)
        torch.testing.assert_close(rotation.inverse_weight @ rotation.weight, torch.eye(rotation.channels))
    # After squeeze, rotation and scaling the channels of the first level are white.
    y = flow.pixels(x.double())[0].float()
    for layer in list(flow.eval().level_list()[0].bijections())[:3]:
        y, _ = layer(y)
    covariance = torch.cov(y.transpose(0, 1).flatten(1), correction=0)
    torch.testing.assert_close(covariance, torch.eye(len(covariance)), rtol=0, atol=1e-4)
