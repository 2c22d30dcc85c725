"""Flows over features: names, log-dets, learned inverses, and what is frozen of them."""

import math

import pytest
import torch

from snf_models.bijections.base import SelfNormalizing
from snf_models.bijections.conformance import jacobian_log_det, randomise
from snf_models.features.flows import FeatureFlows, build_feature_flows, freeze_features
from snf_models.flows.architecture import FeatureArchitecture, Linear

SHAPE = (4, 3, 2)


def architecture(
    steps: int = 2, grids: tuple[int, ...] = (2,), linear: Linear = "self-normalizing"
) -> FeatureArchitecture:
    return FeatureArchitecture(
        channels=1, height=28, width=28, backbone="linear", backbone_sha256="0" * 64, input_height=28, input_width=28,
        feature_channels=4, rows=3, columns=2, pooled=(2, 3), grids=grids, linear=linear, steps=steps, hidden=8,
    )  # fmt: skip


def random_flows(*args: object, **changes: object) -> FeatureFlows:
    flows = build_feature_flows(architecture(*args, **changes))
    randomise(flows, 0.3, seed=1)
    return flows.double().eval()


@pytest.mark.parametrize("linear", ["self-normalizing", "exact"])
@pytest.mark.parametrize("steps", [0, 2])
@torch.no_grad()
def test_frozen_flows_are_the_density_of_the_trained_ones(steps: int, linear: Linear) -> None:
    flows = random_flows(steps, linear=linear)
    frozen = freeze_features(flows)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = x
    for step in (frozen.places[0], *frozen.steps):
        z, log_det = step.forward(z)
        assert log_det is None
    torch.testing.assert_close(z, flows.latents(x), rtol=1e-10, atol=1e-10)
    expected = jacobian_log_det(flows.latents, x)
    torch.testing.assert_close(torch.full_like(expected, frozen.constant_log_det), expected, rtol=0, atol=1e-8)
    back = z
    for step in reversed((frozen.places[0], *frozen.steps)):
        back = step.inverse(back, "exact")
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)


def test_every_layer_has_a_stored_log_det() -> None:
    flows = random_flows()
    log_dets = flows.log_dets()
    assert list(log_dets) == ["places.0", "pooled.0", "steps.0", "steps.1", "steps.2", "steps.3"]
    assert log_dets["steps.1"] == log_dets["steps.3"] == 0
    assert flows.scored() == ["places.0", "steps.0", "steps.1", "steps.2", "steps.3"]
    stored = {name: float(number) for number, name in enumerate(log_dets)}
    assert freeze_features(flows, stored).constant_log_det == 0 + 2 + 3 + 4 + 5
    with pytest.raises(KeyError):
        freeze_features(flows, {name: value for name, value in stored.items() if name != "steps.2"})


def test_names_of_weights_without_steps_are_those_of_the_layers() -> None:
    names = {name.rpartition(".")[0] for name in random_flows(0, (1, 2)).state_dict()}
    assert names == {"places.0", "places.1", "pooled.0", "pooled.1"}


def test_errors_of_learned_inverses_include_those_of_the_steps() -> None:
    flows = random_flows()
    errors = flows.reconstruction_errors()
    assert len(errors) == 4
    assert min(errors) > 1e-2
    for _, layer in flows.layers():
        if isinstance(layer, SelfNormalizing):
            layer.refresh_inverse(SHAPE)
    assert max(flows.reconstruction_errors()) < 1e-9
    assert random_flows(linear="exact").reconstruction_errors() == []


@torch.no_grad()
def test_steps_start_without_an_effect_on_the_density() -> None:
    flows = build_feature_flows(architecture()).eval()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flows.latents(x).square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    assert math.isclose(sum(flows.log_dets().values()), 0, abs_tol=1e-5)


def test_steps_need_a_single_fit() -> None:
    with pytest.raises(ValueError, match="expected a single fit where there are Glow steps, got 2"):
        build_feature_flows(architecture(1, (1, 1)))
