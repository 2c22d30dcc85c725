"""What calls of the client raise: the service's problems, and having no answer at all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError


class ClientError(Exception):
    """Base of everything that the client raises of its own."""


class ServiceUnavailable(ClientError):
    """The service did not answer, or the connection was lost before its answer was complete.

    `sent` says whether it may have got the request.
    """

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class UnexpectedAnswer(ClientError):
    """The answer is not what this client expects: something else answered, or the service has another version."""


class FieldError(BaseModel):
    """One wrong part of a request."""

    model_config = ConfigDict(frozen=True)

    pointer: str
    detail: str


class ProblemError(ClientError):
    """The service refused a call or failed.

    `type` is the stable name of this kind of problem, such as `model-not-found`; `errors` names the wrong parts of the
    request; `extensions` are further members of the problem; `retry_after` is the wait that it asks for, in seconds.
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
    """The key is missing, wrong, or not allowed to do this (401, 403)."""


class NotFound(ProblemError):
    """There is no such model, dataset, job or calibration (404)."""


class Conflict(ProblemError):
    """The state of things forbids it (409)."""


class InvalidRequest(ProblemError):
    """The request is wrong (other statuses of 400 to 499)."""


class Busy(ProblemError):
    """The service has too much to do (429)."""


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
    """The error of an answer whose status is 400 or above and whose body was read."""
    status = response.status_code
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else ServiceFailed)
    wait = _retry_after(response.headers.get("retry-after", ""))
    try:
        body = _Body.model_validate_json(response.content)
    except ValidationError:
        # Something between here and the service answered, a proxy mostly.
        title = f"the service answered {status} {response.reason_phrase}".rstrip()
        return kind(status, "about:blank", title, "", retry_after=wait)
    extensions = {name: value for name, value in (body.model_extra or {}).items() if name not in _MEMBERS}
    return kind(
        status, body.type, body.title, body.detail, errors=body.errors or (), extensions=extensions, retry_after=wait
    )


def _retry_after(text: str) -> float | None:
    """Seconds of a `Retry-After` header, which has a number or a date; None where it has neither."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
