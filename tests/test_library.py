"""The examples of docs/library.md run, and what they promise holds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from models.bijections.pixels import LogitPixels
from models.flows.flow import Flow, Level
from models.scoring.frozen import freeze
from models.training.presets import PRESETS
from tests.support.paths import ROOT

BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page() -> Any:
    """The names that the page's examples define, run one after the other."""
    names: dict[str, Any] = {"__name__": "library_page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("models.training.presets.PRESETS", dict(PRESETS))
        for block in BLOCKS.findall((ROOT / "docs" / "library.md").read_text(encoding="utf-8")):
            exec(compile(block, "docs/library.md", "exec"), names)
    return names


def test_scores_and_samples(page: dict[str, Any]) -> None:
    assert page["judged"].verdict.is_anomaly == (page["judged"].verdict.p_value <= 0.01)
    assert (page["samples"].shape, page["samples"].dtype) == ((4, 1, 28, 28), np.uint8)


def test_a_trained_flow_is_exact(page: dict[str, Any]) -> None:
    assert float(page["error"]) < 0.05
    exact = freeze(page["flow"], (1, 28, 28))
    assert exact.image_shape == (1, 28, 28)
    assert torch.isfinite(page["output"].log_likelihood).all()


def test_an_own_bijection_works_in_a_flow(page: dict[str, Any]) -> None:
    flow = Flow(LogitPixels(), [Level([page["ReverseChannels"]()])]).eval()
    output = flow(page["x"])
    assert torch.allclose(flow.inverse(output.latents), page["x"], atol=0.01)
    assert freeze(flow, (1, 28, 28)).image_shape == (1, 28, 28)


def test_an_own_preset_and_engine(page: dict[str, Any]) -> None:
    assert page["architecture"].steps == 4
    assert page["engine"].name == "torch"
    assert "snf-glow-wide" not in PRESETS


def test_an_own_call_is_described(page: dict[str, Any]) -> None:
    assert page["app"].openapi()["paths"]["/v1/greetings"]["get"]["operationId"] == "get_greeting"
