"""Arithmetic of the coupling networks in training: float32 or bfloat16."""

from __future__ import annotations

import torch

from models.bijections.coupling import CouplingNet
from models.flows.flow import Flow
from models.training.config import TrainingConfig


def training_precision(config: TrainingConfig, device: str = "cpu") -> str:
    """Return the number format in which coupling networks compute during training, "float32" or "bfloat16".

    ``auto`` is bfloat16 on a CPU with instructions for it, and float32 on any other CPU, on CUDA, and where inputs of
    layers are recomputed: rounding to bfloat16 would amplify the errors of the inverses.

    Args:
        config: The training settings.
        device: "cpu" or "cuda".
    """
    if config.precision != "auto":
        return config.precision
    if device != "cpu" or config.recompute:
        return "float32"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bfloat16" if fast else "float32"


def compute_coupling_nets_in(flow: Flow, dtype: torch.dtype | None) -> None:
    """Make the coupling networks of a flow compute in ``dtype``, or with None in that of their unchanged weights.

    The weights keep their type and are brought to the memory layout that is fastest, channels last.
    """
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            module.autocast = dtype
