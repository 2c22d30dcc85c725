"""Calls of the API: their roles, errors and bodies; lists in pages, streamed answers, and answers to HEAD."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from functools import partial, wraps
from json import JSONDecodeError
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.access.permissions import caller_of, permit
from snf_app.http.admission import read_body
from snf_app.http.errors import (
    REMOVED,
    FieldProblem,
    invalid_fields,
    pointer_of,
    problem_of,
    responses,
    unsupported_media_type,
)
from snf_app.http.request_log import forget_body, note_body, shortened
from snf_client.schemas.base import Name, Role
from snf_models.archives import TarPieces
from snf_models.texts import choices

MAX_NAMED = 10  # unknown parameters that an answer names at most
ANYWHERE, OF_ROLES, OF_BODIES = (400, 403, 422), (401, 429, 500, 503), (408, 413, 415)
"""Errors of all calls, of those that need a role, and of those with a body."""


class PageQuery(BaseModel):
    """Query parameters of a list of named resources: where a page begins, and its size."""

    after: Name | None = Field(None, description="`next` of the page before.")
    limit: int = Field(200, ge=1, le=200, description="Most entries in one page.")

    def page(self, names: Iterable[str], key: Callable[[str], Any] = str) -> tuple[list[str], str | None]:
        """Return the names of this page, and ``after`` of the next one; ``key`` orders all names."""
        rest = sorted((name for name in names if self.after is None or key(name) > key(self.after)), key=key)
        shown = rest[: self.limit]
        return shown, shown[-1] if len(rest) > self.limit else None


JOB_STORE_THREADS = 16
_job_store_threads: RunVar[CapacityLimiter] = RunVar("job_store_threads")

P = ParamSpec("P")
T = TypeVar("T")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


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


class CheckedRoute(APIRoute):
    """Route that checks the caller's role, the queue, the query and the type and size of a body, in this order."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        role: Role | None,
        errors: Collection[int] = (),
        body: dict[str, Any] | None = None,
        queued: bool = False,
        **options: Any,
    ) -> None:
        self.role = role
        self._queued = queued
        super().__init__(path, endpoint, operation_id=endpoint.__name__, **options)
        self.openapi_extra = {} if body is None else {"requestBody": body}
        statuses = {*errors, *ANYWHERE}
        if role is not None:
            self.description = f"{self.description}\n\nNeeds the role `{role}`.".strip()
            self.openapi_extra["security"] = [{"bearer": [role]}, {"key": [role]}]
            statuses.update(OF_ROLES)
        if body is not None or self.body_field is not None:
            statuses.update(OF_BODIES)
        self.responses = dict(sorted((responses(path, statuses) | self.responses).items()))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = tuple(dict.fromkeys(_query_names(self.dependant)))
        members = getattr(self.body_field and self.body_field.field_info.annotation, "model_fields", ())

        async def handle_checked(request: Request) -> Response:
            if self.role is not None:
                permit(request.scope, self.role)
            if self._queued:  # before anything is read, so that a refusal costs little
                request.state.fair_queue.check(caller_of(request.scope).name)
            if request.query_params and self.include_in_schema:  # pages outside of the API take any
                _refuse_unknown(request.query_params, known)
            if self.body_field is None:
                return await handle(request)
            json_request = JsonRequest(request.scope, request.receive)
            await json_request.read()
            try:
                return await handle(json_request)
            except RequestValidationError as error:
                forget_body(request.scope)
                raise problem_of(error, known=members) from error

        return handle_checked


def _refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    unknown = [shortened(name) for name in dict.fromkeys(given) if name not in known][:MAX_NAMED]
    if unknown:
        details = {name: REMOVED.get(name) or f"there is no such parameter; {choices(name, known)}" for name in unknown}
        raise invalid_fields(
            [FieldProblem(pointer=pointer_of(("query", name)), detail=detail) for name, detail in details.items()]
        )


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (info.alias or name for name, info in kind.model_fields.items())
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)


class Router:
    """Calls below a common path, which need the same role unless they name another.

    The name of a call's function is the id of its operation. Functions of calls that use the job store and block run in
    threads of their own.
    """

    def __init__(
        self, prefix: str = "", tag: str = "", role: Role | None = "read", *, uses_job_store: bool = False
    ) -> None:
        self.routes: list[BaseRoute] = []
        self._prefix, self._tags, self._role = prefix, [tag] if tag else [], role
        self._uses_job_store = uses_job_store

    def get(self, path: str, summary: str = "", **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a function that answers GET; ``errors`` are the statuses of a call beside those that all have."""
        return self._adding("GET", path, summary, options)

    def post(self, path: str, summary: str = "", **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a function that answers POST, as :meth:`get`."""
        return self._adding("POST", path, summary, options)

    def put(self, path: str, summary: str = "", **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a function that answers PUT, as :meth:`get`."""
        return self._adding("PUT", path, summary, options)

    def delete(self, path: str, summary: str = "", **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a function that answers DELETE with 204, as :meth:`get`."""
        return self._adding("DELETE", path, summary, {"status_code": 204, "response_class": Response, **options})

    def _adding(self, method: str, path: str, summary: str, options: dict[str, Any]) -> Callable[[Endpoint], Endpoint]:
        settings = {"role": self._role, "tags": self._tags, "summary": summary, **options}

        def add(endpoint: Endpoint) -> Endpoint:
            blocks = self._uses_job_store and not inspect.iscoroutinefunction(endpoint)
            run = in_job_store_threads(endpoint) if blocks else endpoint
            self.routes.append(CheckedRoute(self._prefix + path, run, methods=[method], **settings))
            return endpoint

        return add


JSON = "application/json"
MAX_BYTES = 64 * 1024  # largest JSON body: parsing it must not hold up the event loop


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


class ClosedStream(StreamingResponse):
    """Streaming response that closes the iterator of its bytes, even if the client disconnects early."""

    def __init__(
        self,
        content: AsyncGenerator[bytes] | TarPieces,
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

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request to the application; of the answer to HEAD send the headers alone."""
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        return (self._answer_head if head else self._app)(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
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
