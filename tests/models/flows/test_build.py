"""Construction without random weights."""

from typing import Any

import pytest
import torch

from snf_models.features.flows import TrainedFlows, build_flows
from snf_models.flows.build import NoRandomness
from snf_models.pipeline.presets import PRESETS


def layout(flow: TrainedFlows) -> dict[str, Any]:
    """Shapes, types and strides: sums over other strides may differ in their last bits."""
    return {name: (value.shape, value.dtype, value.stride()) for name, value in flow.state_dict().items()}


@pytest.mark.parametrize("name", sorted(name for name, preset in PRESETS.items() if preset.width <= 128))
def test_a_flow_without_randomness_is_laid_out_as_one_with(name: str) -> None:
    architecture = PRESETS[name].architecture((1, 16, 16), "logit")
    before = torch.get_rng_state()
    with NoRandomness():
        flow = build_flows(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    assert layout(flow) == layout(build_flows(architecture))
