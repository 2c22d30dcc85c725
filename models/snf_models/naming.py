"""Names of models, datasets and keys, and references ``name`` (live), ``name:3`` and ``name@champion``."""

from __future__ import annotations

import re
from typing import NamedTuple

from snf_client.schemas.base import NAME, NAME_RULE, VERSION
from snf_models.errors import InvalidName, ModelNotFound

LIVE = "live"  # the alias of the version that the plain name of a model means; every model with a fit version has it
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that can forge lines, move the cursor or exchange the order of what is read."""
_REF = re.compile(rf"(?P<name>{NAME})(:(?P<version>{VERSION})|@(?P<alias>{NAME}))?")


class ModelRef(NamedTuple):
    name: str
    selector: int | str


def parse_ref(ref: str) -> ModelRef:
    """Parse a reference; raise ``ModelNotFound`` if it is none.

    >>> parse_ref("digits"), parse_ref("digits:3").selector, parse_ref("digits@best").selector
    (ModelRef(name='digits', selector='live'), 3, 'best')
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise ModelNotFound(f"{ref!r} is not a model reference: expected name, name:version or name@alias")
    return ModelRef(match["name"], int(match["version"]) if match["version"] else match["alias"] or LIVE)


def printable(text: str) -> str:
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\xff" else ascii(match[0])[1:-1], text)


def is_name(text: str) -> bool:
    """Return whether a text keeps ``NAME_RULE``.

    >>> is_name("lot-7"), is_name("Lot 7"), is_name("")
    (True, False, False)
    """
    return re.fullmatch(NAME, text) is not None


def is_version(text: str) -> bool:
    """Return whether a text is a number of 1 to 999999999 without leading zeros."""
    return re.fullmatch(VERSION, text) is not None


def check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidName(f"{name!r}: expected {NAME_RULE}")
