"""Arithmetic of the coupling networks in training: float32 or bfloat16."""

from __future__ import annotations

import torch

from models.bijections.coupling import CouplingNet
from models.flows.flow import Flow
from models.training.config import TrainingConfig

BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability from which NVIDIA GPUs multiply in bfloat16."""


def training_precision(config: TrainingConfig, device: str = "cpu") -> str:
    """Return the number format in which the coupling networks of a flow compute during training.

    It is "float32" or "bfloat16".

    ``auto`` is bfloat16 on a device with instructions for it, and float32 on any other and where inputs of layers are
    recomputed: rounding to bfloat16 would amplify the errors of the inverses. Where there is no GPU, as in a service
    that estimates a training on another machine, a GPU is taken to have them.

    Args:
        config: The training settings.
        device: "cpu", "cuda" or "cuda:N".
    """
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
    """Set the floating-point type, such as bfloat16, in which the coupling networks of a flow compute.

    None stands for the type of their weights.

    The weights keep their type.
    """
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.autocast = dtype


def lay_out_coupling_nets(flow: Flow, precision: str, device: str = "cpu") -> None:
    """Change the memory layout of the weights in a flow's coupling networks, for fast convolutions.

    The layout is the fastest for the device.

    It is channels last on CPUs, and on GPUs in bfloat16.

    Args:
        flow: The flow.
        precision: The number format of the networks, "float32" or "bfloat16".
        device: "cpu", "cuda" or "cuda:N".
    """
    last = device == "cpu" or precision == "bfloat16"
    layout = torch.channels_last if last else torch.contiguous_format
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.to(memory_format=layout)  # type: ignore[call-overload]
