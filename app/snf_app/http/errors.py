"""Errors of the service as RFC 9457 problem details, and their description in OpenAPI."""

from __future__ import annotations

import http
import logging
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from snf_app.http.openapi import REFERENCE
from snf_client.schemas.base import RULES
from snf_models.disk import storage_error
from snf_models.errors import ErrorKind, ModelNotFound, ModelsError, NoLiveVersion
from snf_models.texts import plain_text, with_value
from snf_worker.errors import BrokerDown, JobInUse, JobsError

PREFIX = "/v2"


def has_protocol(path: str) -> bool:
    """Return whether a URL path belongs to the Open Inference Protocol.

    Errors of these paths have the form of the protocol.

    >>> has_protocol("/v2"), has_protocol("/v2/models/m/infer"), has_protocol("/v20"), has_protocol("/v1/models")
    (True, True, False, False)
    """
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def error_answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)


MEDIA_TYPE = "application/problem+json"

PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Reason phrases of RFC 9110 that some Python versions lack; slugs are made of them and must not change."""

STATUSES = {
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.INVALID: 422,
    ErrorKind.BUSY: 429,
    ErrorKind.NO_SPACE: 507,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.FAILED: 500,
}

KINDS = {
    "invalid-host": (400, "The Host header is not valid"),
    "malformed-form": (400, "The form cannot be read"),
    "malformed-json": (400, "The body is not valid JSON"),
    "malformed-request": (400, "The request is not valid HTTP"),
    "upload-cut-off": (400, "The upload was cut off"),
    "unauthorized": (401, "A valid key is needed"),
    "cross-origin": (403, "Another origin asks for a change"),
    "host-not-allowed": (403, "The host name is not allowed"),
    "insufficient-role": (403, "The key may not do this"),
    "contact-sheet-not-found": (404, "No contact sheet"),
    "drift-not-found": (404, "No drift is watched"),
    "sample-not-found": (404, "No such sample"),
    "request-timeout": (408, "Request Timeout"),
    "dataset-built-in": (409, "The dataset is built in"),
    "dataset-in-use": (409, "The dataset is in use"),
    "job-has-no-result": (409, "The job has no result"),
    "model-in-use": (409, "The model is in use"),
    "result-at-output": (409, "The result is at the output of the job"),
    "version-in-use": (409, "The version is in use"),
    "too-many-files": (413, "Too many files"),
    "too-many-images": (413, "Too many images"),
    "too-many-pixels": (413, "Too many pixels"),
    "unsupported-media-type": (415, "Unsupported Media Type"),
    "invalid-request": (422, "The request is not valid"),
    "larger-than-rate-limit": (422, "The request is larger than the rate limit"),
    "no-image-scored": (422, "None of the images can be scored"),
    "out-of-memory-expected": (422, "The job is not expected to fit into memory"),
    "too-long-expected": (422, "The job is expected to take too long"),
    "queue-full": (429, "The scoring queue is full"),
    "rate-limited": (429, "Over the rate limit of the key"),
    "too-many-connections": (429, "Too many connections"),
    "too-many-event-streams": (429, "Too many event streams"),
    "too-many-requests": (429, "Too Many Requests"),
    "too-many-uploads": (429, "Too many uploads at once"),
    "too-many-wrong-keys": (429, "Too many wrong keys"),
    "headers-too-large": (431, "Request Header Fields Too Large"),
    "internal-error": (500, "The service failed"),
    "model-failed": (500, "The model could not be loaded"),
    "draining": (503, "The service is stopping"),
    "keys-unreadable": (503, "The keys cannot be read"),
    "deadline-exceeded": (504, "The deadline passed"),
}
"""Status and title of each type of problem that is no error of the other packages."""

REMOVED = {
    "monitor": "there is no such parameter any more: only images with a `source` are watched for drift",
    "detail": "verdicts with gradients have been removed: leave `detail` out",
    "thorough": "verdicts with gradients have been removed: leave `thorough` out",
}
"""What to say of parameters that earlier versions had."""

POINTERS = {
    "alpha-unattainable": "/query/alpha",
    "explain-unsupported": "/query/explain",
    "no-learned-inverse": "/query/inverse",
    "location-refused": "/body/location",
    "location-not-found": "/body/location",
    "unsuitable-column": "/body/column",
}
"""The part of a request that an error is about, by the error's slug."""
RETRY_S = {ErrorKind.UNAVAILABLE: 30}
"""Seconds after which a caller may try again, by the kind of an error that does not say so itself."""
NOT_FOUND = {
    "model-not-found": ("ref", "name"),
    "calibration-not-found": ("number", "calibration"),
    "limit-not-found": ("number",),
    "dataset-not-found": ("name",),
    "job-not-found": ("job_id",),
    "run-not-found": ("run_id",),
}
"""What a request may call the thing that an error did not find, by the error's slug."""
ERROR = "snf.error"  # key of a request's scope that holds its error, for metrics
REQUEST_ID = "snf.request_id"
BODY = "snf.body"  # key of a request's scope that holds its parsed JSON body

log = logging.getLogger(__name__)


def pattern(expression: str, rule: str) -> str:
    """Register a rule that error messages show instead of a regular expression; return the expression."""
    RULES[expression] = rule
    return expression


class FieldProblem(BaseModel):
    """Error in one part of a request, such as an invalid query parameter.

    It has the path to the part, such as /query/alpha, and tells what is wrong there.
    """

    pointer: str = Field(
        description="Where: `/body/...`, `/query/...`, `/header/...` or `/path/...`.",
        examples=["/query/alpha"],
    )
    detail: str = Field(description="What is wrong there.", examples=["expected a value less than 1, got 2"])


class ProblemDetails(BaseModel):
    """Body of an error response: a JSON object of problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable name of this kind of problem.", examples=["model-not-found"])
    title: str = Field(description="The same for every problem of this type.", examples=["No such model"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(description="What happened this time.", examples=["no model is named 'dogs'"])
    instance: str = Field(description="Path of the request.", examples=["/v1/models/dogs"])
    errors: list[FieldProblem] | None = Field(None, description="The wrong parts of the request.")


class InferenceError(BaseModel):
    """The body of every error answer of the Open Inference Protocol."""

    error: str = Field(
        description="What was expected and what came.", examples=["No such model: no model is named 'dogs'"]
    )


class Problem(Exception):
    """HTTP error response of the type ``slug``; ``detail`` says what was expected, what came, and what to do.

    ``kind`` has status and title of types that are not in ``KINDS``.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        kind: tuple[int, str] | None = None,
        pointer: str | None = None,
        errors: Sequence[FieldProblem] | None = None,
        retry_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.title = kind or KINDS[slug]
        self.slug = slug
        self.detail = detail
        self.errors = [FieldProblem(pointer=pointer, detail=detail)] if pointer else errors
        self.headers = dict(headers or {}) | ({} if retry_s is None else {"Retry-After": str(retry_s)})
        self.extensions = dict(extensions or {})


def invalid(pointer: str, detail: str) -> Problem:
    """Return a 422 error for the part of a request at ``pointer``, such as ``/query/alpha``."""
    return invalid_fields([FieldProblem(pointer=pointer, detail=detail)])


def invalid_fields(fields: Sequence[FieldProblem]) -> Problem:
    """Return a 422 error (``Problem``) that points at all invalid parts of a request; its detail names three."""
    detail = "; ".join(f"{field.pointer}: {field.detail}" for field in fields[:3])
    return Problem("invalid-request", detail, errors=fields)


def malformed_json(detail: str) -> Problem:
    fields = [FieldProblem(pointer="/body", detail=detail)]
    return Problem("malformed-json", f"/body: {detail}", errors=fields)


def unsupported_media_type(got: str, accepted: Sequence[str]) -> Problem:
    names = ", ".join(accepted)
    return Problem(
        "unsupported-media-type",
        f"the body's content type is {got or 'not given'!r}; expected one of {names}",
        headers={"Accept": names},
    )


def draining() -> Problem:
    """Return a 503 error (``Problem``) that refuses or ends a request while the service shuts down."""
    return Problem("draining", "no new work is taken", retry_s=5)


def field_problem(error: Mapping[str, Any], parent: tuple[str, ...] = (), known: Collection[str] = ()) -> FieldProblem:
    """Convert an item of ``ValidationError.errors()``; ``known`` are parameters to suggest for an unknown one."""
    match error["type"]:
        case "string_pattern_mismatch":
            rule = RULES.get(error["ctx"]["pattern"], "other characters or another length")
            detail = f"expected {rule}"
        case "extra_forbidden":
            detail = REMOVED.get(str(error["loc"][-1])) or plain_text(error, known)
            detail = detail if detail.endswith("?") else f"{detail}; see /docs for all parameters"
        case _:
            detail = plain_text(error)
    detail = with_value(detail, error.get("input"))
    return FieldProblem(pointer=pointer_of((*parent, *error["loc"])), detail=detail)


def status_of(error: ModelsError | JobsError | Problem) -> int:
    return error.status if isinstance(error, Problem) else STATUSES[error.kind]


def problem_response(problem: Problem, instance: str) -> Response:
    """Return an error response of RFC 9457, or below ``/v2`` of the Open Inference Protocol."""
    if has_protocol(instance):
        return error_answer(problem.status, f"{problem.title}: {problem.detail}", problem.headers)
    body = ProblemDetails(
        type=problem.slug,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=instance,
        errors=list(problem.errors) if problem.errors else None,
        **problem.extensions,
    )
    return Response(
        body.model_dump_json(exclude={"errors"} if body.errors is None else None),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def problem_of(error: Exception, pointer: str | None = None, known: Collection[str] = ()) -> Problem:
    """Convert any exception; an unexpected one becomes a 500 error without internal details."""
    error = storage_error(error) or error
    match error:
        case Problem():
            return error
        case ModelsError() | JobsError():
            # The detail of a broker that is down names sockets and hosts, which belong into the log only.
            hidden = "the job store does not answer; scoring goes on"
            detail = hidden if isinstance(error, BrokerDown) else error.detail
            return Problem(
                error.slug,
                detail,
                kind=(status_of(error), error.title),
                pointer=pointer or POINTERS.get(error.slug),
                retry_s=getattr(error, "retry_after_s", RETRY_S.get(error.kind)),
                extensions=_members(error),
            )
        case RequestValidationError():
            first = error.errors()[0]
            if first["type"] == "json_invalid":  # which comes alone
                return malformed_json(f"expected valid JSON: {first['ctx']['error']}")
            return invalid_fields([field_problem(item, (), known) for item in error.errors()])
        case HTTPException():
            title = phrase(error.status_code)
            slug, kind = title.lower().replace(" ", "-"), (error.status_code, title)
            return Problem(slug, str(error.detail or title), kind=kind, headers=error.headers)
        case _:
            return Problem("internal-error", "An unexpected error happened; the service's log has its traceback.")


def _members(error: ModelsError | JobsError) -> dict[str, Any]:
    """Return the further members of the problem of an error, by which a program can act."""
    if isinstance(error, JobInUse):
        return {"job": error.job}
    if not isinstance(error, NoLiveVersion):
        return {}
    return {"unfit": [{"code": code, "detail": detail} for code, detail in error.unfit]}


def phrase(status: int) -> str:
    """Return the standard reason phrase of an HTTP status code, such as ``Not Found`` for 404."""
    return PHRASES.get(status) or http.HTTPStatus(status).phrase


def pointer_of(location: Sequence[str | int]) -> str:
    """Convert a list of keys and indices to a JSON pointer (RFC 6901), such as ``/query/alpha``."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> str:
    """Return the ``Allow`` header of a path; ``/v1/jobs/estimate`` is not an id of ``/v1/jobs/{job_id}``."""
    root = scope.get("app_root_path", scope.get("root_path", ""))
    found: set[str] = set()
    literal: set[str] = set()
    for route in routes:
        # Matching writes into the scope of some routes.
        match, _ = route.matches({**scope, "root_path": root})
        if match is not Match.NONE:
            methods = getattr(route, "methods", None) or {"GET"}  # files are mounted
            methods = methods | {"HEAD"} if "GET" in methods else methods
            found |= methods
            if isinstance(route, Route) and not route.param_convertors:
                literal |= methods
    return ", ".join(sorted(literal or found))


async def _answer_storage(request: Request, error: Exception) -> Response:
    """Answer an exception of a disk that takes no writes; pass on any other exception of the operating system."""
    if storage_error(error) is None:
        raise error
    return await _answer(request, error)


def _pointer_to_missing(request: Request, error: Exception) -> str | None:
    """Return where a request names what an error did not find."""
    if not isinstance(error, ModelsError) or error.slug not in NOT_FOUND:
        return None
    given = {"path": request.path_params, "query": request.query_params, "body": request.scope.get(BODY, {})}
    names = (*([error.part] if isinstance(error, ModelNotFound) else []), *NOT_FOUND[error.slug])
    places = [(place, name) for name in names for place, values in given.items() if name in values]
    return pointer_of(places[0]) if places else None


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error, _pointer_to_missing(request, error))
    request.scope[ERROR] = error
    if problem.status in (404, 405) and problem.detail == problem.title:
        problem.detail = f"{request.method} {request.url.path} is not a call of this service; see /docs"
    if problem.status == 405:
        # The router names the methods of one of the path's routes.
        problem.headers["Allow"] = allowed_methods(request.app.routes, request.scope)
    if problem.status >= 500:
        if REQUEST_ID in request.scope:  # an unexpected error is answered outside the middleware that adds the header
            problem.headers["X-Request-Id"] = request.scope[REQUEST_ID]
        log.warning("%s %s: %s: %s", request.method, request.url.path, problem.slug, error)
    return problem_response(problem, request.url.path)


async def _note_disconnect(request: Request, _error: Exception) -> Response:
    """Answer a client that has left: nothing reads the answer, but logs and metrics count it."""
    return await _answer(request, Problem("upload-cut-off", "the client disconnected before the end"))


def install(app: FastAPI) -> None:
    for kind in (Problem, ModelsError, JobsError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(ClientDisconnect, _note_disconnect)
    for kind in (OSError, sqlite3.Error):
        app.add_exception_handler(kind, _answer_storage)


def responses(path: str, statuses: Iterable[int]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of the errors of a path, for FastAPI's argument ``responses``."""
    media_type, kind = ("application/json", InferenceError) if has_protocol(path) else (MEDIA_TYPE, ProblemDetails)
    content = {media_type: {"schema": {"$ref": REFERENCE.format(model=kind.__name__)}}}
    return {status: {"description": http.HTTPStatus(status).phrase, "content": content} for status in statuses}
