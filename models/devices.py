"""Devices and precision of training: CPU or CUDA, float32 or bfloat16."""

from __future__ import annotations

import re

import torch

from models.errors import DeviceNotFound
from models.training.config import TrainingConfig


def find_device(name: str) -> torch.device:
    """Return the torch device of a name, and turn off TF32 for CUDA devices.

    TF32, the default of cuDNN, rounds the factors of products in float32 to ten bits.

    Args:
        name: "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceNotFound: The name is not one of these, or there is no such device.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceNotFound(f"expected device cpu, cuda or cuda:N, got {name!r}")
    if name != "cpu":
        if not torch.cuda.is_available():
            raise DeviceNotFound(f"expected a CUDA device for {name}, PyTorch finds none on this machine")
        if (torch.device(name).index or 0) >= torch.cuda.device_count():
            raise DeviceNotFound(
                f"expected device {name}, PyTorch finds {torch.cuda.device_count()} CUDA devices on this machine"
            )
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return torch.device(name)


def training_precision(config: TrainingConfig, device: str = "cpu") -> str:
    """Return the precision of the coupling networks in training, "float32" or "bfloat16".

    "auto" in the configuration is bfloat16 on CPUs with bfloat16 instructions, and float32 otherwise and on CUDA.

    Args:
        config: The configuration of the training.
        device: The name of the device.
    """
    if config.precision != "auto":
        return config.precision
    if device != "cpu":
        return "float32"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bfloat16" if fast else "float32"
