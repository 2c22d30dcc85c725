"""Exceptions of the client: error responses of the service, and calls without a response."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError


class ClientError(Exception):
    """Base class of the exceptions for failed requests to the service."""


class ServiceUnavailable(ClientError):
    """Raised when the connection to the service cannot be made or breaks.

    A connection breaks if it ends before the response is complete, or if no bytes arrive within the timeout.

    Args:
        detail: Message.
        sent: Whether the service may have received the request.
    """

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class UnexpectedAnswer(ClientError):
    """Raised when a response has an unexpected format or is a redirection.

    For example, a field of the JSON is missing, or the response is HTML.

    Usual causes: the address is not that of the service, or client and service have versions that do not fit.
    """


class ModelChanged(ClientError):
    """Raised when different versions or calibrations of a model answered the requests of one scoring call.

    Their scores and p-values cannot be compared. Repeat the call; a reference with a version keeps to that version.
    """


class FieldError(BaseModel):
    """Invalid field of a request: a JSON pointer to the field, such as ``/body/dataset``, and what is wrong with it."""

    model_config = ConfigDict(frozen=True)

    pointer: str
    detail: str


class ProblemError(ClientError):
    """Base class of exceptions for HTTP error responses.

    It has the status, type, title and detail of the problem (RFC 9457).

    Args:
        status: HTTP status.
        type: Stable name of this kind of problem, such as ``model-not-found``.
        title: The kind of problem in words.
        detail: This problem in words.
        errors: Wrong parts of the request.
        extensions: Further members of the response.
        retry_after: Seconds after which the service asks to try again.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        extensions: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.errors = errors
        self.extensions = dict(extensions or {})
        self.retry_after = retry_after


class NotAuthorized(ProblemError):
    """Raised when the API key is missing or wrong (HTTP 401), or may not make the call (HTTP 403)."""


class NotFound(ProblemError):
    """Raised when the model, dataset, job or other object that a call names does not exist (HTTP 404)."""


class Conflict(ProblemError):
    """Raised when the state of a resource forbids a call, such as cancelling a finished job (HTTP 409).

    A model without a live version gives the type ``no-live-version``; ``extensions["unfit"]`` has the reasons.
    """


class InvalidRequest(ProblemError):
    """Raised when the service rejects a request as invalid (HTTP 4xx except 401, 403, 404, 409 and 429)."""


class Busy(ProblemError):
    """Raised when the service is overloaded or the API key exceeds its rate limit (HTTP 429): try again later."""


class ServiceFailed(ProblemError):
    """Raised when the service has an internal error, is shutting down or is not ready yet (HTTP 5xx)."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    401: NotAuthorized,
    403: NotAuthorized,
    404: NotFound,
    409: Conflict,
    429: Busy,
}
_MEMBERS = {"type", "title", "status", "detail", "instance", "errors"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    detail: str = ""
    errors: tuple[FieldError, ...] | None = None


def error_of(response: httpx.Response) -> ClientError:
    """Return the exception for an unsuccessful response; redirections are errors: key and body are for one address."""
    if response.status_code >= 400:
        return problem_of(response)
    target = response.headers.get("location")
    return UnexpectedAnswer(
        f"{response.url} answered {response.status_code} {response.reason_phrase}"
        + (f" and points to {target}: give the address of the service there" if target else "")
    )


def problem_of(response: httpx.Response) -> ProblemError:
    """Return the exception for the status of an error response; without a problem document the detail is empty."""
    status = response.status_code
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else ServiceFailed)
    wait = _retry_after(response.headers.get("retry-after", ""))
    try:
        body = _Body.model_validate_json(response.content)
    except ValidationError:
        # Mostly the response of a proxy in front of the service.
        title = f"the service answered {status} {response.reason_phrase}".rstrip()
        return kind(status, "about:blank", title, "", retry_after=wait)
    extensions = {name: value for name, value in (body.model_extra or {}).items() if name not in _MEMBERS}
    return kind(
        status, body.type, body.title, body.detail, errors=body.errors or (), extensions=extensions, retry_after=wait
    )


def _retry_after(text: str) -> float | None:
    """Return the seconds to wait from a ``Retry-After`` header, given as a number or a date, or None."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
