"""Exceptions of the client: error responses of the service, and calls without a response."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError


class ClientError(Exception):
    """Base class of the exceptions of this package."""


class ServiceUnavailable(ClientError):
    """The service did not answer, or the connection was lost before its response was complete.

    Args:
        detail: Message.
        sent: Whether the service may have received the request.
    """

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class UnexpectedAnswer(ClientError):
    """The response does not have the form that this client expects.

    The address is not that of the service, or the service has a version that does not fit.
    """


class FieldError(BaseModel):
    """A wrong part of a request: a JSON pointer to it, and what is wrong."""

    model_config = ConfigDict(frozen=True)

    pointer: str
    detail: str


class ProblemError(ClientError):
    """An error response of the service, in the problem format of RFC 9457.

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
    """The API key is missing, wrong, or has no permission for the call (401, 403)."""


class NotFound(ProblemError):
    """The model, dataset, job or calibration does not exist (404)."""


class Conflict(ProblemError):
    """The call is not possible in the current state of the resource (409)."""


class InvalidRequest(ProblemError):
    """The request is invalid (other statuses from 400 to 499)."""


class Busy(ProblemError):
    """The service is overloaded or the rate limit of the key is reached (429)."""


class ServiceFailed(ProblemError):
    """The service failed, is stopping, or is not ready (500 and above)."""


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


def problem_of(response: httpx.Response) -> ProblemError:
    """Return the exception for an error response whose body was read."""
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
    """Return the seconds of a ``Retry-After`` header with a number or a date; None for other text."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
