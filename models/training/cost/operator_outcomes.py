"""Outcomes of operators on the meta device, cached because inferring them in Python is slow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Like(NamedTuple):
    """All that the outcome of an operator depends on in a tensor without values."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


class _Argument(NamedTuple):
    """An argument that is no tensor, with its type: 1, 1.0 and True give different outcomes."""

    kind: type
    value: Any


class _Sequence(NamedTuple):
    kind: type
    items: tuple[Any, ...]


def operate(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: list[Tensor]) -> Any:
    """Return the outcome of an operator, run only for new arguments. ``given`` gets the tensors among them."""
    positional = _described(args, given)
    named = tuple([(name, _described(value, given)) for name, value in kwargs.items()])
    if all(tensor.is_meta for tensor in given) if given else kwargs.get("device") == torch.device("meta"):
        outcome = _outcome(func, positional, named)
        if outcome is not None:
            return _made(outcome, given)
    return func(*args, **kwargs)


@lru_cache(maxsize=8192)
def _outcome(func: Any, positional: Any, named: tuple[tuple[str, Any], ...]) -> Any:
    """Return the described outcome, or None if a description does not tell all that the operator does."""
    given: list[Tensor] = []
    args = _arguments(positional, given)
    kwargs = {name: _arguments(value, given) for name, value in named}
    before = [_state(tensor) for tensor in given]
    outcome = func(*args, **kwargs)
    unchanged = before == [_state(tensor) for tensor in given]
    return _described_outcome(outcome, given) if unchanged else None


def _state(tensor: Tensor) -> tuple[object, int]:
    """Return what an operator in place may change of a tensor."""
    return _described(tensor, []), tensor.untyped_storage()._cdata


def _described(value: Any, given: list[Tensor]) -> Any:
    """Describe an argument, and append its tensors to a list."""
    if isinstance(value, Tensor):
        given.append(value)
        return _Like(value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return _Sequence(type(value), tuple([_described(item, given) for item in value]))
    return _Argument(type(value), value)


def _arguments(described: Any, given: list[Tensor]) -> Any:
    """Make an argument from its description, and append its tensors to a list."""
    if isinstance(described, _Like):
        given.append(described.make())
        return given[-1]
    if isinstance(described, _Sequence):
        return described.kind(_arguments(item, given) for item in described.items)
    return described.value


def _described_outcome(outcome: Any, given: list[Tensor]) -> Any:
    """Describe what an operator returned: its inputs by their numbers, other tensors by what they are like."""
    if isinstance(outcome, Tensor):
        for number, tensor in enumerate(given):
            if outcome is tensor:
                return number
        like, storage = _Like(outcome.shape, outcome.stride(), outcome.dtype), outcome.untyped_storage()
        of_another = any(storage._cdata == tensor.untyped_storage()._cdata for tensor in given)
        whole = outcome.storage_offset() == 0 and storage.nbytes() == like.make().untyped_storage().nbytes()
        return like if outcome.is_meta and whole and not of_another else None
    if isinstance(outcome, list | tuple):
        items = tuple(_described_outcome(item, given) for item in outcome)
        return None if None in items else _Sequence(type(outcome), items)
    return None


def _made(outcome: Any, given: list[Tensor]) -> Any:
    if isinstance(outcome, _Like):
        return outcome.make()
    if isinstance(outcome, _Sequence):
        return outcome.kind(_made(item, given) for item in outcome.items)
    return given[outcome]
