"""JSON routes that check the caller's role before they read the body, and limit its size."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from json import JSONDecodeError
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from snf_app.access.permissions import permit, role_needed
from snf_app.http.body_limit import read_body
from snf_app.http.errors import problem_of, unsupported_media_type
from snf_app.http.request_log import forget_body, note_body

JSON = "application/json"
MAX_BYTES = 64 * 1024
"""Largest JSON body: parsing it must not hold up the event loop."""


class JsonRoute(APIRoute):
    """Route that checks role, then type and size of the body, which FastAPI reads before any dependency."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        role = role_needed(self.dependencies)
        members = getattr(self.body_field and self.body_field.field_info.annotation, "model_fields", ())

        async def handle_checked(request: Request) -> Response:
            if role is not None:
                permit(request.scope, role)
            json_request = JsonRequest(request.scope, request.receive)
            if self.body_field is not None:
                await json_request.read()
            try:
                return await handle(json_request)
            except RequestValidationError as error:
                forget_body(request.scope)
                raise problem_of(error, known=members) from error

        return handle_checked


class JsonRequest(Request):
    """Request with a JSON body of at most 64 KiB, which is kept for the audit log."""

    async def read(self) -> None:
        """Read the body without parsing it; raise 415 if it is not JSON, and ``BodyTooLarge`` above 64 KiB."""
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != JSON:
            raise unsupported_media_type(media_type, [JSON])
        self._body = await read_body(self, MAX_BYTES)

    async def json(self) -> Any:
        """Return the parsed body; raise ``JSONDecodeError`` if it is invalid."""
        try:
            document = from_json(await self.body())
        except ValueError as error:
            # The one error that FastAPI answers as an invalid body.
            raise JSONDecodeError(str(error), "", 0) from error
        note_body(self.scope, document)
        return document
