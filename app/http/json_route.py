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

from app.access.permissions import permit, role_needed
from app.http.body_limit import read_body
from app.http.errors import problem_of, unsupported_media_type
from app.http.request_log import forget_body, note_body

JSON = "application/json"
MAX_BYTES = 64 * 1024
"""Largest JSON body: parsing it must not hold up the event loop."""


class JsonRoute(APIRoute):
    """FastAPI route that checks the caller's role before it reads the JSON body.

    The body may take 64 KiB at most.

    FastAPI reads and validates a body parameter before it runs any dependency. This route first checks the role that
    its dependencies ask for, then type and size of the body: a caller without the role gets 403, whatever it sent.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the async function that checks and answers the requests of this route.

        It checks role, content type and body size, then calls the endpoint.

        The function raises 403, 413, 415 and 422 errors.
        """
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
    """Request with a JSON body of at most 64 KiB.

    The parsed body is kept for the audit log.
    """

    async def read(self) -> None:
        """Read the request's JSON body into memory, without parsing it.

        Raises a 415 error if its content type is not JSON, and ``BodyTooLarge`` above 64 KiB.
        """
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != JSON:
            raise unsupported_media_type(media_type, [JSON])
        self._body = await read_body(self, MAX_BYTES)

    async def json(self) -> Any:
        """Return the body of the request, parsed as JSON.

        It is kept for the audit log. Raises ``JSONDecodeError`` if the body is invalid.
        """
        try:
            document = from_json(await self.body())
        except ValueError as error:
            # The one error that FastAPI answers as an invalid body.
            raise JSONDecodeError(str(error), "", 0) from error
        note_body(self.scope, document)
        return document
