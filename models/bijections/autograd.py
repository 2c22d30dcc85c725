"""Helper for calling PyTorch autograd functions from typed code, as ``Function.apply`` declares no types."""

from __future__ import annotations

from typing import Any

from torch.autograd import Function


def call(function: type[Function], *inputs: Any) -> Any:
    """Apply a PyTorch autograd function to inputs and return its outputs.

    ``Function.apply`` itself declares no types.
    """
    return function.apply(*inputs)
