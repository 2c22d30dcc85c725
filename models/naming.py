"""Rules for names of models, datasets and keys, and for references to one version of a model.

A reference is ``name`` (its alias ``live``), ``name:3`` (a version) or ``name@champion`` (an alias).
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import Field

from models.errors import InvalidName, ModelNotFound

LIVE = "live"
"""The alias of the version that the plain name of a model means; every model with a fit version has it."""
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
VERSION = r"[1-9][0-9]{0,8}"
NAME_PATTERN = rf"^{NAME}$"
REF_PATTERN = rf"^{NAME}(:{VERSION}|@{NAME})?$"
"""Patterns of JSON Schema, which match anywhere in a text unless they are anchored."""
NAME_RULE = "1 to 64 of a-z 0-9 . _ - with a letter or digit first"
"""The rule of a name, for error texts."""
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name as the field of a pydantic model."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that can forge lines, move the cursor or exchange the order of what is read."""
_REF = re.compile(rf"(?P<name>{NAME})(:(?P<version>{VERSION})|@(?P<alias>{NAME}))?")


class ModelRef(NamedTuple):
    """Parsed reference to a model version, such as ``digits:3`` or ``digits@best``.

    It has the model's name, and a version number or an alias such as ``live``.
    """

    name: str
    selector: int | str


def parse_ref(ref: str) -> ModelRef:
    """Parse a reference to a model version, such as ``digits:3`` or ``digits@best``.

    Returns the name, and the version or alias. The plain name ``digits`` means the alias ``live``.

    Raises:
        ModelNotFound: The text is not a reference.

    >>> parse_ref("digits"), parse_ref("digits:3").selector, parse_ref("digits@best").selector
    (ModelRef(name='digits', selector='live'), 3, 'best')
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise ModelNotFound(f"{ref!r} is not a model reference: expected name, name:version or name@alias")
    return ModelRef(match["name"], int(match["version"]) if match["version"] else match["alias"] or LIVE)


def printable(text: str) -> str:
    """Return a text with each control character, such as a newline, replaced by a printable escape."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\xff" else ascii(match[0])[1:-1], text)


def is_name(text: str) -> bool:
    """Return whether a text is a valid name of a model, dataset or alias.

    A name has 1 to 64 characters: a-z, 0-9, dot, dash and underscore, with a letter or digit first.

    >>> is_name("lot-7"), is_name("Lot 7"), is_name("")
    (True, False, False)
    """
    return re.fullmatch(NAME, text) is not None


def is_version(text: str) -> bool:
    """Return whether a text is a valid number of a model version or of a calibration.

    Numbers of versions and of calibrations are 1 to 999999999, without leading zeros.
    """
    return re.fullmatch(VERSION, text) is not None


def check_name(name: str) -> None:
    """Check that the name of a model, dataset or alias is valid, and raise ``InvalidName`` otherwise.

    The rule is that of :func:`is_name`.
    """
    if not is_name(name):
        raise InvalidName(f"{name!r}: expected {NAME_RULE}")
