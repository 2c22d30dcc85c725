"""Names, references and the base class of answers, shared by the schemas of all domains."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

RULES: dict[str, str] = {}
"""The rule of each pattern in words, for error texts."""


def pattern(expression: str, rule: str) -> str:
    """Return a regular expression for a field, after its rule was stored for error texts."""
    RULES[expression] = rule
    return expression


Name = Annotated[
    str,
    Field(pattern=pattern(r"^[a-z0-9][a-z0-9._-]{0,63}$", "1 to 64 of a-z 0-9 . _ - with a letter or digit first")),
]
"""Name of a model or dataset."""
REF = pattern(
    r"^[a-z0-9][a-z0-9._-]{0,63}(:[1-9][0-9]{0,8}|@[a-z0-9][a-z0-9._-]{0,63})?$",
    "the name of a model, or name:version, or name@alias",
)
"""Pattern of a model reference: a name, optionally with a version or an alias."""


class Answer(BaseModel):
    """Base class of all answers; immutable, and made from the attributes of another object where they agree."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
