"""The number format of the coupling networks in training, and the memory layout of their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from snf_models.bijections.coupling import CouplingNet
from snf_models.training.config import TrainingConfig
from snf_models.training.optimizer import lay_out_coupling_nets, training_precision
from tests.models.helpers import glow


@pytest.mark.parametrize(
    ("capability", "settings", "expected"),
    [
        ((9, 0), {}, "bfloat16"),
        ((7, 5), {}, "float32"),
        ((7, 5), {"precision": "bfloat16"}, "bfloat16"),
        ((9, 0), {"precision": "float32"}, "float32"),
        ((9, 0), {"recompute": True}, "float32"),
        (None, {}, "bfloat16"),
    ],
)
def test_on_cuda_the_coupling_nets_compute_in_bfloat16_where_the_gpu_can(
    capability: tuple[int, int] | None, settings: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or where there is none, as in a service that estimates what another machine will do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert training_precision(TrainingConfig.model_validate(settings), "cuda:0") == expected


def test_the_layout_of_the_coupling_nets_is_that_of_their_device() -> None:
    flow = glow(16)
    for precision, device, last in [("float32", "cuda", 0), ("bfloat16", "cuda", 1), ("float32", "cpu", 1)]:
        lay_out_coupling_nets(flow, precision, device)
        weights = [module.first.weight for module in flow.modules() if isinstance(module, CouplingNet)]
        layout = torch.channels_last if last else torch.contiguous_format
        assert all(weight.is_contiguous(memory_format=layout) for weight in weights)
