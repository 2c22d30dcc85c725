"""Descriptions of answers for OpenAPI, and corrections to the document that FastAPI generates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

REFERENCE = "#/components/schemas/{model}"
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILES: dict[str, Any] = {"type": "array", "minItems": 1, "items": BINARY["schema"]}
PARAMETERS = {"ref": "mnist-snf-glow", "name": "line-1", "source": "camera-2"}  # examples of parameters in paths


def binary(description: str) -> dict[str, Any]:
    """Return the content of bytes that no media type describes."""
    return {"application/octet-stream": {"schema": BINARY["schema"] | {"description": description}}}


def form(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a body that is a form."""
    schema = {"type": "object", "required": required, "additionalProperties": False, "properties": fields}
    return {"multipart/form-data": {"schema": schema}}


def created(status: int, description: str, what: str) -> dict[str, Any]:
    """Return the options of a call that makes something, whose path is in the header ``Location``."""
    location = {"description": f"Path of the {what}.", "schema": {"type": "string"}}
    return {
        "status_code": status,
        "responses": {status: {"description": description, "headers": {"Location": location}}},
    }


def answer(description: str, *media_types: str, texts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the description of an answer in media types of bytes, and of ``texts``, an example by media type."""
    examples = {kind: {"schema": {"type": "string"}, "example": example} for kind, example in (texts or {}).items()}
    return {"description": description, "content": dict.fromkeys(media_types, BINARY) | examples}


def sends(description: str, *media_types: str, texts: Mapping[str, str] | None = None, **others: Any) -> dict[str, Any]:
    """Return the options of a call that answers with a file, as :func:`answer`."""
    return {"response_class": Response, "responses": {200: answer(description, *media_types, texts=texts) | others}}


def add_schemas(document: dict[str, Any], kinds: Iterable[type[BaseModel]]) -> None:
    """Add the schemas of classes in place that FastAPI leaves out, because it does not read or write them itself."""
    wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [(kind, "validation") for kind in kinds]
    document["components"]["schemas"] |= models_json_schema(wanted, ref_template=REFERENCE)[1]["$defs"]


def complete_parameters(document: dict[str, Any]) -> None:
    """Remove the null type of parameters, which callers leave out, and add examples of those in paths, in place."""
    for calls in document["paths"].values():
        for operation in calls.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
                if parameter["in"] == "path" and parameter["name"] in PARAMETERS:
                    parameter.setdefault("example", PARAMETERS[parameter["name"]])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf", [])
    kept = [choice for choice in choices if choice != {"type": "null"}]
    if len(kept) == len(choices):
        return schema
    others = {name: value for name, value in schema.items() if name != "anyOf"}
    return others | kept[0] if len(kept) == 1 else others | {"anyOf": kept}
