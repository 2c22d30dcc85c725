"""Modules built without random numbers, for weights that are about to be read from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class NoRandomness(TorchFunctionMode):
    """While active, initialisers leave tensors as they are, and random or orthogonal ones are zeros in the same layout.

    Random weights of a large flow take longer to make than its file takes to read. Torch's device "meta" makes none
    either, but imports its compiler to find out their shapes, which takes longer than reading a small model.

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
        """Answer for ``func``, or let it run."""
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
    # Column by column in memory, as LAPACK has them: the order of later sums, and so their last bits, follow from it.
    return _Factors(matrix.new_zeros(rank, rows).mT, matrix.new_zeros(columns, rank).mT)
