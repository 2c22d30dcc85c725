"""Name patterns of models and datasets, and the base class of all API answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.naming import NAME_PATTERN, NAME_RULE, REF_PATTERN

RULES: dict[str, str] = {}
"""The rule of each pattern in words, for error texts."""


def pattern(expression: str, rule: str) -> str:
    """Return ``expression`` unchanged, and register ``rule`` as the text that validation errors show for it."""
    RULES[expression] = rule
    return expression


Name = Annotated[str, Field(pattern=pattern(NAME_PATTERN, NAME_RULE))]
"""Name of a model or dataset."""
REF = pattern(REF_PATTERN, "the name of a model, or name:version, or name@alias")
"""Pattern of a model reference: a name, optionally with a version or an alias."""


class Answer(BaseModel):
    """Base class of all API answers: an immutable pydantic model that can be built from another object's attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
