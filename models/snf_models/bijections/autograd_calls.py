"""Helpers for PyTorch autograd functions: typed calls, and backward passes that refuse second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.autograd import Function

Gradients = TypeVar("Gradients")


def call(function: type[Function], *inputs: Any) -> Any:
    """Apply a PyTorch autograd function to inputs and return its outputs.

    ``Function.apply`` itself declares no types.
    """
    return function.apply(*inputs)


def first_derivatives(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate an autograd backward pass so that the pass raises an error if second derivatives are requested.

    Tensors that are kept for the pass have no derivatives of their own, so that second ones would lack terms.
    ``once_differentiable`` of PyTorch notices it only where the incoming gradients need gradients themselves.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Gradients:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"expected first derivatives alone, got create_graph=True in {backward.__qualname__}, whose second "
                "derivatives are not implemented; take gradients with create_graph=False"
            )
        return backward(ctx, *gradients)

    return checked
