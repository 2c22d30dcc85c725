"""What flows are loaded with: neither random numbers nor torch's compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.build import build_flow
from models.no_randomness import NoRandomness
from models.presets import PRESETS

ROOT = Path(__file__).parents[2]
LOADING = """
import sys
from pathlib import Path
from models.registry import Registry
from models.scoring.scorer import Scorer
Scorer.load(Registry(Path("none")).resolve("mnist-snf-glow").path)
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


@pytest.mark.parametrize("name", sorted(name for name, preset in PRESETS.items() if preset.width <= 128))
def test_a_flow_without_randomness_has_the_shapes_of_one_with(name: str) -> None:
    architecture = PRESETS[name].architecture((1, 16, 16), "logit")
    before = torch.get_rng_state()
    with NoRandomness():
        flow = build_flow(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    wanted = {key: (value.shape, value.dtype) for key, value in build_flow(architecture).state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in flow.state_dict().items()} == wanted


def test_loading_a_model_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
