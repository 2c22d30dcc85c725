# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snf_app.cli.common import fail, fail_validation
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from snf_client.schemas.jobs import JobRequest

TEXTS = ("dataset", "model", "preset", "device", "backbone", "against")
"""Fields and parameters that are text even where it looks like a number."""
LISTS = ("against", "shapes", "contrasts")
"""Parameters that are lists; their values are separated by commas."""


def job_request(type: str, pairs: Iterable[str], file: Path | None) -> JobRequest:
    """Return a request of a file, overridden by ``NAME=VALUE`` pairs; exit with code 2 if it is not valid."""
    from pydantic import ValidationError

    from snf_client.schemas.jobs import JobRequest

    fields = [name for name in JobRequest.model_fields if name not in {"type", "parameters"}]
    request: dict[str, Any] = {"type": type} if file is None else _read(file, type)
    for name, value in parse_pairs(pairs, "NAME=VALUE").items():
        if name in fields:
            request[name] = value
        else:
            request["parameters"] = {**request.get("parameters", {}), name: value}
    unknown = request.keys() - {"type", "parameters", *fields}
    if unknown:
        raise fail(f"{file}: expected the fields {', '.join(fields)} and parameters, got {min(unknown)!r}", USAGE)
    try:
        return JobRequest.model_validate(request)
    except ValidationError as error:
        raise fail_validation(error, "the request") from error


def parse_pairs(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` pairs into a dictionary of typed values, such as numbers and lists.

    A value that is JSON is read as JSON, any other value as text. Some parameters, such as ``model``, are always text.
    The items of a list are separated by commas.

    >>> parse_pairs(["alpha=0.01", "shapes=spot,hole", "contrasts=64", "model=7"], "--set")
    {'alpha': 0.01, 'shapes': ['spot', 'hole'], 'contrasts': [64], 'model': '7'}
    """
    values: dict[str, Any] = {}
    for name, text in split_pairs(pairs, option).items():
        read = str if name in TEXTS else _value
        if name in LISTS and not text.startswith("["):
            values[name] = [read(part) for part in text.split(",")]
        else:
            values[name] = _value(text) if name in LISTS else read(text)
    return values


def split_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Split ``NAME=VALUE`` pairs; exit with code 2 for another form."""
    texts: dict[str, str] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise fail(f"{option}: expected NAME=VALUE, got {pair!r}", USAGE)
        texts[name] = text
    return texts


def _value(text: str) -> Any:
    try:
        return _json(text)
    except ValueError:
        return text


def _json(text: str | bytes) -> Any:
    """Return the value of JSON. Raises ``ValueError``, also for ``NaN`` and ``Infinity``, which JSON does not have."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _read(file: Path, type: str) -> dict[str, Any]:
    try:
        request = _json(file.read_bytes())
    except ValueError as error:
        raise fail(f"{file}: expected JSON: {error}", USAGE) from error
    if not isinstance(request, dict) or request.get("type", type) != type:
        got = request.get("type") if isinstance(request, dict) else request
        raise fail(f"{file}: expected the request of a job of type {type}, got {got!r}", USAGE)
    if not isinstance(request.get("parameters", {}), dict):
        raise fail(f"{file}: expected parameters by name, got {request['parameters']!r}", USAGE)
    return {**request, "type": type}
