"""JSON bodies, read by a dependency: a parameter of the route would be read and parsed before its key is checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.http.body_limit import read_body
from app.http.errors import unsupported_media_type
from app.http.request_log import note_body

JSON = "application/json"
LIMIT = 64 * 1024
"""Largest JSON body, in bytes: parsing it must not hold up the event loop."""

M = TypeVar("M", bound=BaseModel)


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that gives the body as `model`; raises 413, 415 and 422 problems."""

    async def read(request: Request) -> M:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise unsupported_media_type(kind, [JSON])
        try:
            body = model.model_validate_json(await read_body(request, LIMIT))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from error
        note_body(request.scope, body.model_dump(mode="json", exclude_unset=True))
        return body

    return read


def json_body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of such a body, for a route's `openapi_extra`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}
