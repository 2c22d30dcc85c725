"""OpenAPI description of the bodies of inference requests and of binary responses."""

from __future__ import annotations

from typing import Any

from snf_app.inference_protocol.schemas import InferRequest

REFERENCES = "#/components/schemas/{model}"
EXAMPLE = {
    "id": "lot-7",
    "parameters": {"source": "line-1"},
    "inputs": [{"name": "image", "shape": [1, 1, 2, 2], "datatype": "UINT8", "data": [0, 255, 17, 3]}],
    "outputs": [{"name": "log_likelihood"}, {"name": "p_value"}],
}
"""A request for a model of 2 x 2 pixels."""
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": REFERENCES.format(model="InferRequest")}, "example": EXAMPLE},
        "application/octet-stream": {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "The JSON object, and after it the bytes of its binary tensor. The header "
                "`Inference-Header-Content-Length` has the length of the JSON object.",
            }
        },
    },
}
"""The request body of inference, for FastAPI's argument ``openapi_extra``."""
BINARY_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/octet-stream": {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "The JSON object, and after it the bytes of the outputs that are binary.",
                }
            }
        }
    }
}
"""The answer with binary tensors, for FastAPI's argument ``responses``."""


def add_request_schemas(openapi: dict[str, Any]) -> None:
    """Add schemas in place: FastAPI does not, because it does not parse the body of these requests."""
    schema = InferRequest.model_json_schema(ref_template=REFERENCES)
    openapi["components"]["schemas"].update(schema.pop("$defs"), InferRequest=schema)
