"""Where and in what arithmetic training computes: on the CPU, or on a CUDA device."""

from __future__ import annotations

import re

import torch

from models.errors import DeviceNotFound
from models.training.config import TrainingConfig


def find_device(name: str) -> torch.device:
    """Return the device of this name, "cpu", "cuda" or "cuda:N". Raises ``DeviceNotFound`` where it is not there.

    On CUDA the process computes float32 as float32 from here on: TF32, cuDNN's default, keeps ten bits of each factor.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceNotFound(f"expected device cpu or cuda, got {name!r}")
    if name != "cpu":
        if not torch.cuda.is_available():
            raise DeviceNotFound(f"device {name} was asked for, and PyTorch finds no CUDA device here")
        if (torch.device(name).index or 0) >= torch.cuda.device_count():
            raise DeviceNotFound(f"device {name} was asked for, PyTorch finds {torch.cuda.device_count()} here")
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return torch.device(name)


def training_precision(config: TrainingConfig, device: str = "cpu") -> str:
    """Return the arithmetic of the coupling nets: what was asked; for ``auto`` bfloat16 where the CPU computes it.

    On CUDA ``auto`` is float32.
    """
    if config.precision != "auto":
        return config.precision
    if device != "cpu":
        return "float32"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bfloat16" if fast else "float32"
