"""Devices that PyTorch computes on: the CPU, or a CUDA device."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from snf_models.errors import DeviceNotFound

OUT_OF_GPU_MEMORY = "the GPU has no more memory: a smaller batch_size or preset, or recompute, needs less"
OUT_OF_MEMORY = "the process got no more memory: a smaller batch_size or preset needs less"


def find_device(name: str) -> torch.device:
    """Return a device, of CUDA without TF32, which keeps ten bits of a factor; raise ``DeviceNotFound``."""
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


def lack_of_memory(error: BaseException) -> str | None:
    """Return advice if an exception means that memory ran out, else None."""
    if isinstance(error, torch.OutOfMemoryError):
        return OUT_OF_GPU_MEMORY
    # For memory of the CPU, PyTorch raises a plain RuntimeError that only its text identifies.
    lacks = isinstance(error, MemoryError) or any(text in str(error) for text in ("can't allocate memory", "bad_alloc"))
    return OUT_OF_MEMORY if lacks else None


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor without waiting for the GPU, which copies from locked memory by itself."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def constant(
    make: Callable[..., Tensor], *arguments: Hashable, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Return a cached tensor, not to be modified: each copy to a GPU would delay the program."""
    return _constant(make, arguments, device, dtype)


@lru_cache(maxsize=1024)
def _constant(
    make: Callable[..., Tensor], arguments: tuple[Hashable, ...], device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    # Some callers run in inference mode, others with gradients.
    with torch.inference_mode(False):
        return make(*arguments).to(device=device, dtype=dtype)


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN time its algorithms. For training only, as the last bits of results may differ."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
