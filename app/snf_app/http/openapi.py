"""Descriptions of answers for OpenAPI, and corrections to the document that FastAPI generates."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

BINARY = {"schema": {"type": "string", "format": "binary"}}
FILES: dict[str, Any] = {"type": "array", "minItems": 1, "items": BINARY["schema"]}
PARAMETERS = {"ref": "mnist-snf-glow", "name": "line-1", "source": "camera-2"}  # examples of parameters in paths


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


def sends(description: str, *media_types: str, **others: Any) -> dict[str, Any]:
    """Return the options of a call that answers with a file."""
    answer = {"description": description, "content": dict.fromkeys(media_types, BINARY)}
    return {"response_class": Response, "responses": {200: answer | others}}


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
