"""Names, references and the base class of answers, shared by the schemas of all domains."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.naming import NAME_PATTERN, NAME_RULE, REF_PATTERN

RULES: dict[str, str] = {}
"""The rule of each pattern in words, for error texts."""


def pattern(expression: str, rule: str) -> str:
    """Return a regular expression for a field, after its rule was stored for error texts."""
    RULES[expression] = rule
    return expression


Name = Annotated[str, Field(pattern=pattern(NAME_PATTERN, NAME_RULE))]
"""Name of a model or dataset."""
REF = pattern(REF_PATTERN, "the name of a model, or name:version, or name@alias")
"""Pattern of a model reference: a name, optionally with a version or an alias."""


class Answer(BaseModel):
    """Base class of all answers; immutable, and made from the attributes of another object where they agree."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
