"""Construction of PyTorch modules without random initial weights, for faster loading from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class NoRandomness(TorchFunctionMode):
    """Context manager that skips the random initialisation of new PyTorch layers, for faster loading.

    It is for layers whose weights are then loaded from a file, or whose weights do not matter.

    Zeros have the memory layout of the random tensors. Random weights of a large flow take longer than reading its
    file. The device "meta" of torch imports the compiler of torch, which takes longer than loading a small model.

    >>> with NoRandomness():
    ...     torch.randn(2, 2)
    tensor([[0., 0.],
            [0., 0.]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return zeros in place of random weights. Other functions of torch run as usual."""
        given = kwargs or {}
        if func is torch.randn:
            return torch.zeros(*args, **given)
        if func is torch.linalg.qr:
            return _no_factors(args[0])
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


class _Factors(NamedTuple):
    Q: Tensor
    R: Tensor


def _no_factors(matrix: Tensor) -> _Factors:
    rows, columns = matrix.shape
    rank = min(rows, columns)
    # Column-major as in LAPACK, because the last bits of later sums depend on the memory layout.
    return _Factors(matrix.new_zeros(rank, rows).mT, matrix.new_zeros(columns, rank).mT)
