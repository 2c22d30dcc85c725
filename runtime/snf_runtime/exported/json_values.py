"""Strict JSON parsing, and conversion of JSON to dataclasses with checks of their field types."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse_json(content: bytes) -> object:
    """Parse JSON; raise ``ValueError`` for duplicate keys, NaN, Infinity, and ``RecursionError`` for deep nesting."""
    return json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"expected finite numbers, got {name}")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"expected {twice!r} once in its object, got it {names.count(twice)} times")
    return values


def from_json(kind: type[T], value: object, where: str = "") -> T:
    """Convert parsed JSON to a dataclass, with checks of types; ``ValueError`` names the place, below ``where``."""
    result: T = _object(kind, value, where)
    return result


def _value(hint: Any, value: object, where: str) -> Any:
    options, origin = get_args(hint), get_origin(hint)
    if origin is UnionType:
        return None if value is None else _value(options[0], value, where)
    if origin is Literal:
        # Types too: 1, 1.0 and true are equal.
        if not any(type(value) is type(option) and value == option for option in options):
            raise ValueError(f"expected {where} to be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin is tuple:
        return _tuple(options, value, where)
    if origin is dict:
        items = _of_type(dict, value, where).items()
        return {name: _value(options[1], item, f"{where}/{name}") for name, item in items}
    if is_dataclass(hint):
        return _object(hint, value, where)
    return _number(value, where) if hint is float else _of_type(hint, value, where)


def _number(value: object, where: str) -> float:
    try:
        number = _of_type(float, float(value) if type(value) is int else value, where)
    except OverflowError as error:
        raise ValueError(f"expected {where} to be a number that a float can hold, got a larger one") from error
    if not math.isfinite(number):
        raise ValueError(f"expected {where} to be a finite number, got {number}")
    return number


def _object(kind: Any, value: object, where: str) -> Any:
    given = _of_type(dict, value, where)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"expected no {unknown[0]!r} in {where or 'the file'}")
    hints = get_type_hints(kind)
    values = {}
    for name, field in known.items():
        if name in given:
            values[name] = _value(hints[name], given[name], f"{where}/{name}".lstrip("/"))
        elif field.default is MISSING:
            raise ValueError(f"expected {name!r} in {where or 'the file'}")
    return kind(**values)


def _tuple(options: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = _of_type(list, value, where)
    kinds = options[:1] * len(items) if options[-1] is Ellipsis else options
    if len(kinds) != len(items):
        raise ValueError(f"expected {len(kinds)} values in {where}, got {len(items)}")
    return tuple(_value(kind, item, f"{where}/{i}") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _of_type(kind: type[T], value: object, where: str) -> T:
    # Not ``isinstance``: true is no number.
    if type(value) is not kind:
        raise ValueError(f"expected {where or 'the file'} to be of type {kind.__name__}, got {type(value).__name__}")
    return value
