"""A mode of PyTorch that fails where a program would wait for a GPU. It needs none: the meta device stands for one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

READS = {
    aten._local_scalar_dense,
    aten._linalg_check_errors,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
}
"""Operations that read values on the device: to branch on them, to return a number, or to know a shape."""
COPIES = {aten._to_copy, aten.copy_}


class NoWaiting(TorchDispatchMode):
    """Context manager in which code fails that would wait for a GPU."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # Nothing is compiled here: the guard against it takes longer than an operator.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operation = func._overloadpacket
        assert operation not in READS, f"{func} waits for the device"
        if operation in (aten.index, aten.index_put, aten.index_put_):
            assert all(index.dtype != torch.bool for index in _tensors(args[1])), f"{func} by a mask waits"
        outcome = func(*args, **(kwargs or {}))
        scalars = operation not in COPIES
        places = {
            each.device.type for each in _tensors((args, kwargs, outcome)) if each.is_meta or each.dim() or not scalars
        }
        assert len(places) < 2, f"{func} brings together tensors of {', '.join(sorted(places))}"
        return outcome


class ValuesAreOne(TorchDispatchMode):
    """Context manager in which a number that is read from the meta device is 1."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
