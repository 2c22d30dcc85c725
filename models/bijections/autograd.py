"""Calls of autograd functions."""

from __future__ import annotations

from typing import Any

from torch.autograd import Function


def call(function: type[Function], *inputs: Any) -> Any:
    """Call an autograd function and return its outputs.

    ``Function.apply`` itself declares no types.
    """
    return function.apply(*inputs)
