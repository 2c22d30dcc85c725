"""Error responses of the Open Inference Protocol: JSON objects with the single member ``error``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

PREFIX = "/v2"
SCHEMA = "InferenceError"
MEDIA_TYPE = "application/json"


def has_protocol(path: str) -> bool:
    """Return whether a URL path belongs to the Open Inference Protocol.

    Errors of these paths have the form of the protocol.

    >>> has_protocol("/v2"), has_protocol("/v2/models/m/infer"), has_protocol("/v20"), has_protocol("/v1/models")
    (True, True, False, False)
    """
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def error_answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)


def describe_errors(openapi: dict[str, Any]) -> None:
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{SCHEMA}"}}}
    for path, calls in openapi["paths"].items():
        if not has_protocol(path):
            continue
        for operation in calls.values():
            # New entries: those of several operations may be one object.
            operation["responses"] = {
                status: answer | {"content": content} if int(status) >= 400 else answer
                for status, answer in operation["responses"].items()
            }
    openapi["components"]["schemas"][SCHEMA] = {
        "type": "object",
        "description": "The body of every error answer of the Open Inference Protocol.",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "string",
                "description": "What was expected and what came.",
                "examples": ["No such model: no model is named 'dogs'"],
            }
        },
    }
