"""Conversion of calibrations to arrays with dotted names, as files store them, and back."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Part = TypeVar("Part")


def to_arrays(part: object, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Flatten nested dataclasses and tuples of arrays, with None, into a dict with keys such as ``folds.0.ordered``."""
    if isinstance(part, np.ndarray):
        return {prefix: np.asarray(part, order="C")}
    if isinstance(part, tuple):
        named: dict[str, object] = {str(index): item for index, item in enumerate(part)}
    elif is_dataclass(part):
        named = {field.name: getattr(part, field.name) for field in fields(part)}
    else:
        raise TypeError(f"{prefix or 'it'} is neither an array nor a dataclass: {type(part).__name__}")
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in named.items():
        if value is not None:
            arrays |= to_arrays(value, f"{prefix}.{name}" if prefix else name)
    return arrays


def from_arrays(kind: type[Part], arrays: Arrays, prefix: str = "") -> Part:
    """Rebuild a nested dataclass, the inverse of :func:`to_arrays`; ``KeyError`` names a missing array."""
    hints = get_type_hints(kind)
    values = {
        field.name: _value(hints[field.name], arrays, f"{prefix}.{field.name}" if prefix else field.name)
        for field in fields(cast(Any, kind))
    }
    return kind(**values)


def _value(hint: Any, arrays: Arrays, name: str) -> Any:
    options = get_args(hint)
    if get_origin(hint) in (types.UnionType,):
        there = any(key == name or key.startswith(f"{name}.") for key in arrays)
        return _value(options[0], arrays, name) if there else None
    if get_origin(hint) is tuple:
        kinds = options
        if options[-1] is Ellipsis:  # of any length
            count = len({key[len(name) + 1 :].split(".")[0] for key in arrays if key.startswith(f"{name}.")})
            kinds = options[:1] * count
        return tuple(_value(kind, arrays, f"{name}.{index}") for index, kind in enumerate(kinds))
    if isinstance(hint, type) and is_dataclass(hint):
        return from_arrays(hint, arrays, name)
    return arrays[name]
