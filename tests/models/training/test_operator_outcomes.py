"""Operators on tensors without values return what they returned for equal arguments before, in new tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from models.training.cost import operator_outcomes
from models.training.cost.operator_outcomes import operate

aten = torch.ops.aten


def meta(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(size, dtype=dtype, device="meta")


def operated(func: Any, *args: Any, **kwargs: Any) -> Any:
    return operate(func, args, kwargs, [])


def runs(func: Any) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """Return a function that calls an operator, and the list of the arguments that it was called with."""
    calls: list[tuple[Any, ...]] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return func(*args, **kwargs)

    return run, calls


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    operator_outcomes._outcome.cache_clear()
    yield
    operator_outcomes._outcome.cache_clear()


def test_an_operator_runs_once_for_equal_arguments_and_makes_new_tensors() -> None:
    run, calls = runs(aten.linalg_lu_factor_ex.default)
    first, second = operated(run, meta(5, 5).mT), operated(run, meta(5, 5).mT)
    assert len(calls) == 1
    assert [(one.shape, one.stride(), one.dtype) for one in second] == [
        (one.shape, one.stride(), one.dtype) for one in aten.linalg_lu_factor_ex.default(meta(5, 5).mT)
    ]
    assert len({tensor.untyped_storage()._cdata for tensor in (*first, *second)}) == 6


@pytest.mark.parametrize(
    "other",
    [
        (meta(3, 2), 1),
        (meta(2, 3, dtype=torch.float64), 1),
        (meta(3, 2).mT, 1),
        (meta(2, 3, dtype=torch.int64), 1.0),
        (meta(2, 3, dtype=torch.int64), True),
    ],
)
def test_arguments_of_another_shape_layout_or_type_are_others(other: tuple[Any, ...]) -> None:
    for known in ((meta(2, 3), 1), (meta(2, 3, dtype=torch.int64), 1)):
        operated(aten.mul.Tensor, *known)
    got, expected = operated(aten.mul.Tensor, *other), aten.mul.Tensor(*other)
    assert (got.shape, got.stride(), got.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_tensors_in_lists_and_by_name_are_arguments() -> None:
    sizes = [operated(aten.cat.default, [meta(2), meta(n)]).shape for n in (3, 4, 3)]
    assert sizes == [(5,), (6,), (5,)]
    sums = [operated(aten.index_put.default, meta(4), [meta(n, dtype=torch.int64)], values=meta(n)) for n in (1, 2)]
    assert [one.shape for one in sums] == [(4,), (4,)]


def test_an_input_that_is_changed_is_returned_itself() -> None:
    run, calls = runs(aten.add_.Tensor)
    for _ in range(2):
        tensor = meta(4)
        assert operated(run, tensor, meta(4)) is tensor
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [(aten._unsafe_view.default, ([4],)), (aten.resize_.default, ([6],)), (aten.sym_size.int, (0,))],
    ids=str,
)
def test_what_no_description_tells_is_done_by_the_operator(operator: Any, arguments: tuple[Any, ...]) -> None:
    for _ in range(2):
        tensor = meta(2, 2)
        outcome = operated(operator, tensor, *arguments)
        if isinstance(outcome, Tensor):
            assert outcome.untyped_storage()._cdata == tensor.untyped_storage()._cdata
            assert list(outcome.shape) == arguments[0]
        else:
            assert outcome == 2


def test_an_input_gets_the_memory_of_another_whenever_it_is_asked_for() -> None:
    for _ in range(2):
        tensor, source = meta(2, 2), meta(2, 2)
        assert operated(aten.set_.source_Tensor, tensor, source) is tensor
        assert tensor.untyped_storage()._cdata == source.untyped_storage()._cdata


def test_tensors_with_values_are_computed_once_for_each_call() -> None:
    run, calls = runs(aten.randn.default)
    assert not torch.equal(operated(run, [3]), operated(run, [3]))
    assert torch.equal(operated(aten.add.Tensor, torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))
    assert len(calls) == 2
    for _ in range(2):
        assert operated(run, [3], device=torch.device("meta")).is_meta
    assert len(calls) == 3
