"""Routers that refuse unknown query parameters, JSON routes, streamed answers, and answers to HEAD."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial, wraps
from inspect import iscoroutinefunction
from json import JSONDecodeError
from typing import Any, ParamSpec, Protocol, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Depends, Request, params
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.access.permissions import permit, role_needed
from snf_app.http.admission import read_body
from snf_app.http.errors import REMOVED, FieldProblem, invalid_fields, pointer_of, problem_of, unsupported_media_type
from snf_app.http.request_log import forget_body, note_body, shortened
from snf_client.schemas.base import Name
from snf_models.texts import choices

MAX_NAMED = 10
"""Unknown parameters that an answer names at most."""


class PageQuery(BaseModel):
    """Query parameters of a list of named resources: where a page begins, and its size."""

    after: Name | None = Field(None, description="`next` of the page before.")
    limit: int = Field(200, ge=1, le=200, description="Most entries in one page.")

    def page(self, names: Iterable[str], key: Callable[[str], Any] = str) -> tuple[list[str], str | None]:
        """Return the names of this page, and ``after`` of the next one; ``key`` orders all names."""
        rest = sorted((name for name in names if self.after is None or key(name) > key(self.after)), key=key)
        shown = rest[: self.limit]
        return shown, shown[-1] if len(rest) > self.limit else None


async def require_known_query(request: Request) -> None:
    """Raise 422 for query parameters that the route does not declare; pages outside of the API take any."""
    if not request.query_params:
        return
    route: APIRoute = request.scope["route"]
    known = _declared(route)
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if not unknown or not route.include_in_schema:
        return
    # This runs before the other dependencies of the route: who may not make the call learns nothing of it.
    role = role_needed(route.dependencies)
    if role is not None:
        permit(request.scope, role)
    errors = [
        FieldProblem(
            pointer=pointer_of(("query", name)),
            detail=REMOVED.get(name) or f"there is no such parameter; {choices(name, known)}",
        )
        for name in (shortened(name) for name in unknown[:MAX_NAMED])
    ]
    raise invalid_fields(errors)


KnownQuery = Depends(require_known_query)
"""The dependency of all routes."""


def _declared(route: APIRoute) -> tuple[str, ...]:
    """Return the names of the query parameters that a route and its dependencies declare."""
    return tuple(dict.fromkeys(_names(route.dependant)))


def _names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (info.alias or name for name, info in kind.model_fields.items())
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _names(dependency)


JOB_STORE_THREADS = 16
_job_store_threads: RunVar[CapacityLimiter] = RunVar("job_store_threads")

P = ParamSpec("P")
T = TypeVar("T")


def in_job_store_threads(call: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Run a blocking function in threads for the job store only: while Redis hangs, the others stay free."""

    @wraps(call)
    async def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        try:
            limiter = _job_store_threads.get()
        except LookupError:
            limiter = CapacityLimiter(JOB_STORE_THREADS)
            _job_store_threads.set(limiter)
        return await to_thread.run_sync(partial(call, *arguments, **keywords), limiter=limiter)

    return run


class Router(APIRouter):
    """Router of complete, shared routes that refuse undeclared query parameters. Including it would copy them."""

    def __init__(
        self, *, dependencies: Sequence[params.Depends] = (), uses_job_store: bool = False, **options: Any
    ) -> None:
        super().__init__(dependencies=[KnownQuery, *dependencies], **options)
        self._uses_job_store = uses_job_store

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; one that uses the job store and blocks runs in threads of its own."""
        if self._uses_job_store and not iscoroutinefunction(endpoint):
            endpoint = in_job_store_threads(endpoint)
        super().add_api_route(path, endpoint, **options)


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


class ClosableChunks(Protocol):
    """Interface of an iterator over the bytes of a response that keeps a file or the like until it is closed."""

    def __iter__(self) -> ClosableChunks: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Release the source of the bytes, such as an open file, even if not all chunks were read."""


class ClosedStream(StreamingResponse):
    """Streaming response that closes the iterator of its bytes, even if the client disconnects early."""

    def __init__(
        self,
        content: AsyncGenerator[bytes] | ClosableChunks,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The answer to a client that left is cancelled, and closing must finish even then.
            with anyio.CancelScope(shield=True):
                if isinstance(self._content, AsyncGenerator):
                    await self._content.aclose()
                else:
                    await anyio.to_thread.run_sync(self._content.close)


class HeadAsGet:
    """Middleware that answers HEAD like GET without the body; no file is read, and a stream ends after its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application; of the answer to HEAD send the headers alone."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered, received = asyncio.Event(), False

        async def receive_then_leave() -> Message:
            nonlocal received
            if not received:
                received = True
                return await receive()
            # As a client that has left: streams end.
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The server sends no body for this method, whatever length the headers say.
                scope["method"] = "HEAD"
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()

        # In place: middleware around this one reads what routing and endpoints write into the scope.
        scope["method"] = "GET"
        # Files are then named in a message, in place of being read.
        scope["extensions"] = {**scope.get("extensions", {}), "http.response.pathsend": {}}
        try:
            await self._app(scope, receive_then_leave, send_headers)
        finally:
            scope["method"] = "HEAD"
