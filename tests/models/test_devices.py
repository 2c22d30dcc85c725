"""A training step stays on its device: without an accelerator at hand, torch's meta device stands for one.

Meta tensors have a place, a shape and no values; an operation on one of them and a tensor of the CPU raises.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from models.bijections.actnorm import ActNorm
from models.flows.architecture import ConvolutionalArchitecture
from models.flows.build import build_flow
from models.training.objective import SelfNormalizingObjective
from models.training.presets import PRESETS, find_preset

SHAPE = (1, 16, 16)
FITTED = ("features", "hybrid")
NARROW = sorted(name for name, preset in PRESETS.items() if preset.width <= 128 and preset.family not in FITTED)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"noise_reconstruction": 1.0, "symmetric_reconstruction": True, "gradient": "newton-schulz"},
]


@pytest.fixture(autouse=True)
def _without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether an ActNorm is initialised is a value, and there is no autocast for a device that computes nothing.
    monkeypatch.setattr(ActNorm, "_check", lambda _self, _x: None)
    monkeypatch.setattr(torch, "autocast", lambda *_arguments, **_settings: nullcontext())


def step(name: str, objective_on: str = "meta", **options: Any) -> None:
    """Take the gradients of one step on the meta device."""
    preset = find_preset("snf-conv-9l" if name == "two-layer" else name)
    config = preset.config(options)
    architecture = preset.architecture(SHAPE, config.pixel_transform)
    if name == "two-layer":
        architecture = ConvolutionalArchitecture(channels=1, height=16, width=16, linear="self-normalizing-two-layer")
    flow = build_flow(architecture).to("meta").train()
    objective = SelfNormalizingObjective(flow, SHAPE, config).to(objective_on)
    y, log_det = flow.pixels(torch.empty(4, *SHAPE, dtype=torch.float64, device="meta"))
    loss = objective.loss(flow, y.float(), log_det.float(), step=0)
    torch.autograd.backward(loss.value)
    assert all(parameter.grad is not None for parameter in flow.parameters())


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "all"])
@pytest.mark.parametrize("name", [*NARROW, "two-layer"])
def test_a_step_makes_nothing_on_another_device(name: str, options: dict[str, Any]) -> None:
    step(name, **options)


def test_a_tensor_left_behind_would_be_seen() -> None:
    with pytest.raises(RuntimeError, match="device"):
        step("snf-glow-tiny", objective_on="cpu")
