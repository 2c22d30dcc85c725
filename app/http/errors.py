"""The one error model of the service: every error is an RFC 9457 problem, and OpenAPI says so."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from models.errors import ErrorKind, ModelsError
from worker.errors import BrokerDown, JobsError

MEDIA_TYPE = "application/problem+json"

PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""RFC 9110's words where the standard library of some Python versions has older ones: slugs must not change."""

STATUSES = {
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.INVALID: 422,
    ErrorKind.NO_SPACE: 507,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.FAILED: 500,
}

ERROR = "snf.error"
"""Where in a request's scope its error stands once it was answered, for those who count errors."""

log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """One wrong part of a request."""

    pointer: str = Field(
        description="Where: `/body/...`, `/query/...`, `/header/...` or `/path/...`.",
        examples=["/query/alpha"],
    )
    detail: str = Field(description="What is wrong there.", examples=["Input should be less than 1"])


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable name of this kind of problem.", examples=["model-not-found"])
    title: str = Field(description="The same for every problem of this type.", examples=["No such model"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(description="What happened this time.", examples=["no model is named 'dogs'"])
    instance: str = Field(description="Path of the request.", examples=["/v1/models/dogs"])
    errors: list[FieldProblem] | None = Field(None, description="The wrong parts of the request.")


class Problem(Exception):
    """An error that a route answers with; `extensions` become further members of the problem."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


def invalid(pointer: str, detail: str) -> Problem:
    """The problem of a request with one wrong part."""
    return Problem(
        422,
        "invalid-request",
        "The request is not valid",
        f"{pointer}: {detail}",
        errors=[FieldProblem(pointer=pointer, detail=detail)],
    )


def unsupported_media_type(got: str, accepted: Sequence[str]) -> Problem:
    """The problem of a body of a kind that the call does not take."""
    names = ", ".join(accepted)
    return Problem(
        415,
        "unsupported-media-type",
        "Unsupported Media Type",
        f"the body's content type is {got or 'not given'!r}; expected one of {names}",
        headers={"Accept": names},
    )


def draining() -> Problem:
    """The problem of work that arrives while the service stops."""
    return Problem(503, "draining", "The service is stopping", "no new work is taken", headers={"Retry-After": "5"})


def status_of(error: ModelsError | JobsError | Problem) -> int:
    """Return the HTTP status of a typed error."""
    return error.status if isinstance(error, Problem) else STATUSES[error.kind]


def problem_response(problem: Problem, instance: str) -> Response:
    """The HTTP answer of a problem."""
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


def problem_of(error: Exception) -> Problem:
    """Maps any exception to its problem; an unknown one becomes a 500 that tells nothing of the inside."""
    match error:
        case Problem():
            return error
        case BrokerDown():
            # Its own detail names sockets and hosts, which are for the log alone.
            return Problem(
                status_of(error),
                error.slug,
                error.title,
                "the job store does not answer; scoring goes on",
                headers={"Retry-After": str(error.retry_after_s)},
            )
        case ModelsError() | JobsError():
            return Problem(status_of(error), error.slug, error.title, error.detail)
        case RequestValidationError():
            found = [_field_problem(item) for item in error.errors()]
            detail = "; ".join(f"{item.pointer}: {item.detail}" for item in found[:3])
            return Problem(422, "invalid-request", "The request is not valid", detail, errors=found)
        case HTTPException():
            title = phrase(error.status_code)
            return Problem(
                error.status_code,
                title.lower().replace(" ", "-"),
                title,
                str(error.detail) if error.detail else title,
                headers=error.headers,
            )
        case _:
            return Problem(
                500,
                "internal-error",
                "The service failed",
                "An unexpected error happened; the service's log has its traceback.",
            )


def phrase(status: int) -> str:
    """The words of an HTTP status."""
    return PHRASES.get(status) or http.HTTPStatus(status).phrase


def pointer_of(location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) to a part of a request."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _field_problem(error: Mapping[str, Any]) -> FieldProblem:
    if error["type"] == "json_invalid":
        return FieldProblem(pointer="/body", detail=f"Invalid JSON: {error['ctx']['error']}")
    return FieldProblem(pointer=pointer_of(error["loc"]), detail=str(error["msg"]))


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    request.scope[ERROR] = error
    if problem.status in (404, 405) and problem.detail == problem.title:
        problem.detail = f"{request.method} {request.url.path} is not a call of this service; see /docs"
    if problem.status >= 500:
        log.warning("%s %s: %s: %s", request.method, request.url.path, problem.slug, error)
    return problem_response(problem, request.url.path)


def install(app: FastAPI) -> None:
    """Makes every error of `app` a problem."""
    for kind in (Problem, ModelsError, JobsError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of a route's problems, for its `responses`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": http.HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}


def add_schema(openapi: dict[str, Any]) -> None:
    """Adds the schema that `responses` refers to to an OpenAPI document, and the problems that any call may have."""
    for path in openapi["paths"].values():
        for operation in path.values():
            anywhere = responses(400, 403, *((408,) if "requestBody" in operation else ()))
            found = {str(status): answer for status, answer in anywhere.items()} | operation["responses"]
            operation["responses"] = dict(sorted(found.items()))
    schema = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    nested = schema.pop("$defs", {})
    openapi.setdefault("components", {}).setdefault("schemas", {}).update(ProblemDetails=schema, **nested)
