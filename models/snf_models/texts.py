"""Texts of parameter values, suggestions of names, and errors of pydantic in plain words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_CHARACTERS = 100  # longest name to which another one is sought


def closest(name: str, known: Collection[str]) -> str | None:
    """Return the most similar name, or None if none is similar enough.

    >>> closest("max_step", ["max_steps", "seed"]), closest("huge", ["max_steps", "seed"])
    ('max_steps', None)
    """
    # No name is that long, and comparing would take time.
    return next(iter(get_close_matches(name, known, n=1)), None) if len(name) <= MAX_CHARACTERS else None


def choices(name: str, known: Collection[str]) -> str:
    """Return the end of an error text: a similar name, if any, and all names.

    >>> choices("mnist-min", ["mnist", "parts"])
    'did you mean mnist? There are: mnist, parts'
    >>> choices("huge", ["mnist", "parts"])
    'there are: mnist, parts'
    """
    names, meant = ", ".join(known) or "none", closest(name, known)
    return f"there are: {names}" if meant is None else f"did you mean {meant}? There are: {names}"


MAX_SHOWN_CHARACTERS = 40  # longest wrong value that a message repeats


def plain_text(error: Mapping[str, Any], known: Collection[str] = ()) -> str:
    """Return the text of an item of ``ValidationError.errors()``, mostly "expected ..., got ..."."""
    match error["type"]:
        case "extra_forbidden":
            name = str(error["loc"][-1])
            meant = closest(name, known)
            return f"unknown parameter {name}; did you mean {meant}?" if meant else "there is no such parameter"
        case "literal_error" | "enum":
            detail = with_value(error["msg"].replace("Input should be", "expected", 1), error.get("input"))
            meant = closest(str(error.get("input")), re.findall("'([^']*)'", error["ctx"]["expected"]))
            return f"{detail}; did you mean {meant}?" if meant else detail
        case "missing":
            return "a value is required, and none was given"
        case "model_type" | "dict_type":
            return "expected an object"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "finite_number":
            detail = error["msg"].replace("Input should be", "expected a value", 1)
        case "value_error" | "assertion_error":
            detail = str(error["ctx"]["error"])
        case _:
            # "Input should be a valid integer, unable to parse string as an integer" and the like.
            detail = error["msg"].partition(", unable to parse")[0]
            for start in ("Input should be", "String should have", "Tuple should have"):
                detail = detail.replace(start, "expected", 1)
    return with_value(detail, error.get("input"))


def error_line(error: ValidationError, known: Collection[str] = (), whole: str = "") -> str:
    """Return all errors in one line; ``whole`` names what errors of no single value belong to."""
    texts = []
    for item in error.errors():
        if item["type"] == "default_factory_not_called":  # Another value is wrong, on which this default depends.
            continue
        text, where = plain_text(item, known), ".".join(map(str, item["loc"])) or whole
        # A suggestion names the unknown parameter itself.
        texts.append(text if not where or text.startswith("unknown parameter") else f"{where}: {text}")
    return "; ".join(texts)


def with_value(detail: str, given: object) -> str:
    """Append ", got <value>" to an error text that starts with "expected", if the value is short."""
    shown = isinstance(given, int | float | str) and len(str(given)) <= MAX_SHOWN_CHARACTERS
    if shown and detail.startswith("expected") and ", got " not in detail:
        return f"{detail}, got {given!r}"
    return detail


def value_text(value: Any) -> str:
    """Return a value as it is written on a command line.

    >>> value_text(None), value_text(True), value_text(1e9), value_text((28, 32))
    ('unset', 'true', '1000000000', '[28, 32]')
    """
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return str([*value]) if isinstance(value, tuple) else str(value)
