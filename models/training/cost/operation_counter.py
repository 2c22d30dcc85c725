"""Counts of operations and bytes of PyTorch code on the meta device."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from models.training.cost.operator_outcomes import operate

aten = torch.ops.aten
T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    flops: float = 0.0  # two a multiply-add, twice as many in float64
    low_precision_flops: float = 0.0  # of networks in bfloat16, not among ``flops``
    bytes: float = 0.0  # read and written
    calls: float = 0.0  # operations that PyTorch starts

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.low_precision_flops + other.low_precision_flops,
            self.bytes + other.bytes,
            self.calls + other.calls,
        )

    def __mul__(self, times: float) -> Work:
        return Work(times * self.flops, times * self.low_precision_flops, times * self.bytes, times * self.calls)


class OperationCounter(TorchDispatchMode):
    """Counter of operations and bytes. Where code asks for the value of a tensor, it gets 1."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.bytes = 0
        self.calls = 0
        self.peak_bytes = 0
        self._live_bytes = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # Nothing is compiled here: the guard against it takes longer than an operator.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype, device="cpu").item()
        named = kwargs or {}
        if func.is_view:
            return func(*args, **named)
        inputs: list[Tensor] = []
        outcome = operate(func, args, named, inputs)
        outputs = [leaf for leaf in tree_leaves(outcome) if isinstance(leaf, Tensor)]
        formula = FLOPS.get(func._overloadpacket)
        if formula is not None:
            flops = formula(*args, out_val=outcome, **named)
            # In float64 a vector register holds half as many numbers.
            self.flops += flops * (2 if any(tensor.dtype == torch.float64 for tensor in outputs) else 1)
        self.bytes += sum([tensor.nbytes for tensor in (*inputs, *outputs)])
        self.calls += 1
        for tensor in outputs:
            self._watch(tensor.untyped_storage())
        return outcome

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def free(_: object) -> None:
            del self._storages[key]
            self._live_bytes -= size

        self._storages[key] = weakref.ref(storage, free)
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)


@dataclass(frozen=True)
class Count(Generic[T]):
    outcome: T
    work: Work
    peak_bytes: int  # of tensors alive at once


def count(run: Callable[[], T]) -> Count[T]:
    with torch.device("meta"), OperationCounter() as operations:
        outcome = run()
    work = Work(flops=operations.flops, bytes=operations.bytes, calls=operations.calls)
    return Count(outcome, work, operations.peak_bytes)


@contextmanager
def saved_bytes(module: nn.Module) -> Iterator[list[int]]:
    """Yield a list that gets the sizes of tensors that autograd saves, without the weights of ``module``."""
    seen = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: list[Tensor] = []
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            kept.append(tensor)  # as long as it lives no other storage gets its address
            sizes.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def _factorisation(numerator: int) -> Callable[..., int]:
    """Return a formula: ``numerator``/3 n³ flops for each n x n matrix."""
    return lambda matrix, *_, **__: numerator * math.prod(matrix) * matrix[-1] // 3


def _triangular_solves(solves: int) -> Callable[..., int]:
    """Return a formula for solves with triangular n x n matrices."""
    return lambda matrix, *_, out_shape, **__: solves * math.prod(out_shape) * matrix[-1]


LINEAR_ALGEBRA_FLOPS: dict[Any, Callable[..., int]] = {
    aten._linalg_slogdet: _factorisation(2),
    aten._linalg_solve_ex: _factorisation(2),
    aten.linalg_lu_factor_ex: _factorisation(2),
    aten.linalg_inv_ex: _factorisation(6),
    aten.linalg_lu_solve: _triangular_solves(2),
    aten.linalg_solve_triangular: _triangular_solves(1),
}
"""Flops of operators that ``torch.utils.flop_counter`` has no formula for (Golub & Van Loan 2013, chapter 3)."""


FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{operator: shape_wrapper(formula) for operator, formula in LINEAR_ALGEBRA_FLOPS.items()},
}
"""Formulas by operator, of the arguments and ``out_val``."""
