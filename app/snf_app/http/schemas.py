"""Name patterns of models and datasets, and the base class of all API answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from snf_models.naming import NAME_PATTERN, NAME_RULE, REF_PATTERN

RULES: dict[str, str] = {}
"""The rule of each pattern in words, for error texts."""


def pattern(expression: str, rule: str) -> str:
    """Register a rule that error messages show instead of a regular expression; return the expression."""
    RULES[expression] = rule
    return expression


Name = Annotated[str, Field(pattern=pattern(NAME_PATTERN, NAME_RULE))]
REF = pattern(REF_PATTERN, "the name of a model, or name:version, or name@alias")
"""Pattern of a model reference: a name, optionally with a version or an alias."""


def _refuse_conversion(value: Any) -> Any:
    if isinstance(value, (bool, str)):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Whole = Annotated[int, BeforeValidator(_refuse_conversion)]
"""A whole number of a JSON body; pydantic alone would take ``true`` and ``"1"`` for 1."""


class Answer(BaseModel):
    """Base class of all API responses: immutable, and made from the attributes of other objects."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
