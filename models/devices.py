"""Devices that PyTorch computes on: the CPU, or a CUDA device."""

from __future__ import annotations

import re

import torch

from models.errors import DeviceNotFound


def find_device(name: str) -> torch.device:
    """Return the torch device ``cpu``, ``cuda`` or ``cuda:N``. Raises ``DeviceNotFound`` if it does not exist.

    For a CUDA device this turns TF32 off in the whole process, because TF32 keeps only ten bits of each factor of a
    float32 product.

    Raises:
        DeviceNotFound: The name is not one of these, or the device does not exist.
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
