"""Arithmetic of the coupling networks in training: float32 or bfloat16."""

from __future__ import annotations

import torch

from snf_models.bijections.coupling import CouplingNet
from snf_models.flows.flow import Flow
from snf_models.training.config import TrainingConfig

BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability from which NVIDIA GPUs multiply in bfloat16."""


def training_precision(config: TrainingConfig, device: str = "cpu") -> str:
    """Return "float32" or "bfloat16". Rounding would amplify errors where inputs are recomputed."""
    if config.precision != "auto":
        return config.precision
    if config.recompute:
        return "float32"
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    else:
        fast = not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    return "bfloat16" if fast else "float32"


def compute_coupling_nets_in(flow: Flow, dtype: torch.dtype | None) -> None:
    """Compute in ``dtype``, or in the type of the weights if None. The weights keep their type."""
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.autocast = dtype


def lay_out_coupling_nets(flow: Flow, precision: str, device: str = "cpu") -> None:
    """Lay out weights for fast convolutions: channels last on CPUs, and on GPUs in bfloat16."""
    last = device == "cpu" or precision == "bfloat16"
    layout = torch.channels_last if last else torch.contiguous_format
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.to(memory_format=layout)  # type: ignore[call-overload]
