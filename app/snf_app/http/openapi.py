"""Additions and corrections to the OpenAPI document that FastAPI generates."""

from __future__ import annotations

from typing import Any


def located(description: str, what: str) -> dict[str, Any]:
    """Return the OpenAPI description of a response with a ``Location`` header, the path of a new resource."""
    location = {"description": f"Path of the {what}.", "schema": {"type": "string"}}
    return {"description": description, "headers": {"Location": location}}


def remove_null_parameters(document: dict[str, Any]) -> None:
    """Remove the null type of parameters in place: callers leave them out instead of sending null."""
    for calls in document["paths"].values():
        for operation in calls.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf", [])
    kept = [choice for choice in choices if choice != {"type": "null"}]
    if len(kept) == len(choices):
        return schema
    others = {name: value for name, value in schema.items() if name != "anyOf"}
    return others | kept[0] if len(kept) == 1 else others | {"anyOf": kept}


PARAMETERS = {"ref": "mnist-snf-glow", "name": "line-1", "source": "camera-2"}


def add_examples(document: dict[str, Any]) -> None:
    for calls in document["paths"].values():
        for operation in calls.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in PARAMETERS:
                    parameter.setdefault("example", PARAMETERS[parameter["name"]])
