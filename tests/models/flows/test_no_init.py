"""What flows are loaded with: neither random numbers nor torch's compiler."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from models.features.flows import TrainedFlows, build_flows
from models.flows.no_init import NoRandomness
from models.training.presets import PRESETS
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

LOADING = """
import sys
from pathlib import Path
from typing import Any
from models.registry.registry import Registry
from models.scorer import Scorer
Scorer.load(Registry(Path("none")).resolve("mnist-snf-glow").path)
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


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


def test_loading_a_model_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
