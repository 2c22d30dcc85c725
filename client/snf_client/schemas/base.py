"""Base classes, names and patterns of all requests and answers of the service."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
VERSION = r"[1-9][0-9]{0,8}"
NAME_PATTERN = rf"^{NAME}$"
REF_PATTERN = rf"^{NAME}(:{VERSION}|@{NAME})?$"
SOURCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/ -]{0,63}$"
"""Patterns of JSON Schema, which match anywhere in a text unless they are anchored."""
NAME_RULE = "1 to 64 of a-z 0-9 . _ - with a letter or digit first"
RULES = {
    NAME_PATTERN: NAME_RULE,
    REF_PATTERN: "the name of a model, or name:version, or name@alias",
    SOURCE_PATTERN: "1 to 64 of A-Z a-z 0-9 . _ : / - and spaces, with a letter or digit first",
}
"""The patterns in words, for error texts."""
MAX_TIMEOUT_MS = 600_000
"""Longest deadline of a request."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of a model, an alias or a dataset."""
Role = Literal["read", "score", "train", "admin"]
"""Role of an API key; each includes those before it."""
JobType = Literal["train", "score", "calibrate", "evaluate", "limit", "recommend"]
Precision = Literal["float32", "bfloat16"]
"""Arithmetic of the middle convolutions of coupling networks in scoring; all else is float32 or better."""
DensityKind = Literal["density", "feature_density"]
"""What a log-likelihood is the log of: a density over dequantised pixels, or over features of a backbone at places that
are taken as independent."""
Fit = Literal["exact", "crop", "stretch", "pad", "tiles"]
"""What is done to images of another size than the model's."""
Colour = Literal["exact", "grey", "rgb"]
"""Channels of a model: those of its images, one or three."""


def _refuse_conversion(value: Any) -> Any:
    if isinstance(value, (bool, str)):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Whole = Annotated[int, BeforeValidator(_refuse_conversion)]
"""A whole number of a JSON body; pydantic alone would take ``true`` and ``"1"`` for 1."""


@cache
def _examples() -> dict[str, list[dict[str, Any]]]:
    examples: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("examples.json").read_bytes())
    return examples


def examples_of(kind: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the documented examples of a request or an answer, which are in ``examples.json`` by its name."""
    return _examples().get(kind.__name__, [])


def _add_examples(schema: dict[str, Any], kind: type[BaseModel]) -> None:
    if examples := examples_of(kind):
        schema["examples"] = examples


class RequestModel(BaseModel):
    """Base class of request bodies. Unknown members are refused, because ignoring them could change what is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_add_examples)


class ResponseModel(BaseModel):
    """Base class of answers. Unknown members are ignored, so that an older client reads those of a newer service."""

    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_extra=_add_examples)


class RecordModel(ResponseModel):
    """Base class of answers that are stored as files, too. They have no infinite numbers, which JSON lacks."""

    model_config = ConfigDict(allow_inf_nan=False)
